"""Accuracy without labels: a slim model's weights are solved for what the dense model computes on the user's data.

``recover``: the function, and what it reports.
``calibration``: the user's batches as chunks of equal structure.
``lockstep``: the dense and the slim graph side by side, operator by operator, over all chunks.
``layers``: layers as linear maps, rows of inputs and rows of outputs.
``least_squares``: the ridge regression of one layer, and whether it holds on data that it has not seen.
``stream``: what a layer whose result is added to another one has to make up for.
``attention``: what keys have to make up for where channels of queries are gone.
``batch_norm``: statistics of what the slim model feeds a batch norm, its function kept.
"""
