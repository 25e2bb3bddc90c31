"""What the planner is made of: layout laws, atoms, alignment, search.  No torch below this line.

``blocks``: when a keep mask respects the layout constraints.
``layout``: one cluster of constraints becomes sets of items that may go together.
``atoms``: the whole coupling becomes atoms with scores, in streams of equals.
``alignment``: widths that a runtime likes turn streams into chains of bundles.
``search``: a budget decides how far each chain is cut.
``patterns``: ``protect``, ``only`` and ``ratios`` become sets of groups.
"""
