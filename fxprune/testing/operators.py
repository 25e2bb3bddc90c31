"""Every law on an operator of one's own: what is wrong with its rule, and what its samples would not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fxprune.errors import FxpruneError
from fxprune.ops import rule_for
from fxprune.support.words import headline
from fxprune.testing.laws import LAWS
from fxprune.testing.mutation.mutant import applied
from fxprune.testing.mutation.systematic import slips_of
from fxprune.testing.samples.base import Sample

__all__ = ["Broken", "LawError", "OperatorReport", "check_operator", "unnoticed_faults"]


@dataclass(frozen=True)
class Broken:
    """A law that does not hold.

    Attributes:
        law: Its name in ``fxprune.testing.laws.LAWS`` or ``fxprune.testing.methods.METHOD_LAWS``.
        subject: The sample, or the method, that shows it.
        how: What is wrong.
    """

    law: str
    subject: Sample | str
    how: str

    @property
    def name(self) -> str:
        """Name of the operator or method."""
        return self.subject if isinstance(self.subject, str) else self.subject.name

    def __str__(self) -> str:
        said = self.subject if isinstance(self.subject, str) else self.subject.op
        return f"{said}, {self.law}: {self.how}"


class LawError(FxpruneError):
    """The rule of an operator, or a method, breaks a law.

    Attributes:
        broken: What is wrong, one by one.
    """

    def __init__(self, what: str, broken: Sequence[Broken]) -> None:
        self.broken = tuple(broken)
        names = ", ".join(dict.fromkeys(b.name for b in broken))
        super().__init__(f"the {what} {names} breaks laws\n" + "\n".join(f"  {b}" for b in broken))


@dataclass(frozen=True)
class OperatorReport:
    """Laws that hold.

    Attributes:
        ops: Operators of the samples.
        laws: Names of the laws.
        samples: How many samples there were.
    """

    ops: tuple[str, ...]
    laws: tuple[str, ...]
    samples: int

    def __str__(self) -> str:
        count = f"{self.samples} sample{'s' * (self.samples != 1)}"
        return f"{', '.join(self.ops)}: {len(self.laws)} laws hold on {count} ({', '.join(self.laws)})"


def check_operator(*samples: Sample) -> OperatorReport:
    """Run every law of rules on samples of operators of your own.

    The laws: exactly the expected dimensions may go; the slim call gives what is left of the dense call's
    results, whatever the removed positions hold; multiply-accumulates are what PyTorch's counter sees; a network
    around the call is traced, planned, slimmed and proved with many removals.

    Args:
        samples: Small calls of operators that have a rule.

    Returns:
        Which laws hold.

    Raises:
        LawError: Some do not; it says which, on which sample, and how.
        FxpruneError: There is no sample, no such operator, or no rule for it.

    Example:
        >>> import torch
        >>> from fxprune.ops import OpRule, pointwise, register
        >>> from fxprune.testing import Sample, check_operator, parameter
        >>> @torch.library.custom_op("fxprune_docs::halved", mutates_args=())
        ... def halved(x: torch.Tensor) -> torch.Tensor:
        ...     return x / 2
        >>> @halved.register_fake
        ... def _(x: torch.Tensor) -> torch.Tensor:
        ...     return torch.empty_like(x)
        >>> register(OpRule(("fxprune_docs::halved",), pointwise.pointwise))
        >>> sample = Sample("fxprune_docs::halved", (parameter(3, 4),), free="01")
        >>> print(check_operator(sample))  # doctest: +ELLIPSIS
        fxprune_docs::halved: 4 laws hold on 1 sample (what may go, ...)
    """
    _with_rules(samples)
    broken = [b for sample in samples for b in _broken(sample)]
    if broken:
        raise LawError("rule for", broken)
    return OperatorReport(tuple(dict.fromkeys(s.name for s in samples)), tuple(LAWS), len(samples))


def unnoticed_faults(*samples: Sample) -> tuple[str, ...]:
    """Slips in the rules of some operators that no law notices on these samples: what more samples should show.

    Every slip that any rule can have (a tie or a pin that is not said, labels that are lost or in the wrong places,
    sizes that do not follow) is made in the rules, one at a time, as far as a rule does such a thing at all.
    One that changes nothing that can be seen may stand here with good reason.

    Args:
        samples: As for ``check_operator``, which they pass.

    Returns:
        What each slip is, as ``"mylib::swish: ties nothing"``.

    Raises:
        FxpruneError: There is no sample, no such operator, or no rule for it.

    Example:
        >>> from fxprune.testing import Sample, parameter
        >>> mul = Sample("aten.cat.default", ([parameter(2, 3), parameter(2, 3)], 0), free="01 01")
        >>> unnoticed_faults(mul)
        ()
    """
    _with_rules(samples)
    unnoticed = []
    for op in dict.fromkeys(s.name for s in samples):
        its = [s for s in samples if s.name == op]
        for slip in slips_of(op, its):
            with applied(slip):
                if not any(b for sample in its for b in _broken(sample)):
                    unnoticed.append(slip.name)
    return tuple(unnoticed)


def _with_rules(samples: Sequence[Sample]) -> None:
    if not samples:
        raise FxpruneError("laws need samples", advice="give a Sample of the operator")
    for sample in samples:
        if rule_for(sample.target) is None:
            raise FxpruneError(
                f"no rule for '{sample.name}'", advice="register one with fxprune.ops.register"
            )


def _broken(sample: Sample) -> Iterator[Broken]:
    """Laws that do not hold, cheap ones first; a law that fails does not hold."""
    for name, law in LAWS.items():
        try:
            how = law(sample)
        except Exception as error:  # noqa: BLE001 - whatever a rule makes fail, the rule is to blame
            how = headline(error, most=200)
        if how:
            yield Broken(name, sample, how)
