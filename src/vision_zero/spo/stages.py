"""Schedules of the training stage: the switch of Iterative-SPO, and fixed ones for ablations.

Paper: Vision-Zero, arXiv 2509.25541, Iterative-SPO (algorithm) and its table of hyperparameters. After every
iteration, with the accuracy and the N/A rate of all its votes:

    acc <- rho acc + (1 - rho) accuracy        na <- rho na + (1 - rho) na_rate        d <- d + 1
    decision -> clue   if acc >= acc_up and na <= na_down and d >= k_min
    clue -> decision   if (1 - acc >= err_up or na >= na_up) and d >= k_min
    forced switch      if d >= patience

With the paper's values, a constant accuracy below 0.9 ends a decision stage only by patience. The averages start at 0,
as if all votes were wrong, so the first clue stage usually ends after `k_min` iterations. Every switch is recorded
with its reason.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vision_zero.types import Stage

SwitchReason = Literal["rule", "patience", "cycle"]
STATE = ("stage", "dwell", "iteration", "_accuracy", "_na", "_n_averaged", "last_reason")
"""Attributes of a schedule that are saved, beside its history."""


@dataclass(frozen=True)
class SwitchEvent:
    """Change of stage after `iteration` (counted from 1), with its reason and the averages and dwell behind it."""

    iteration: int
    from_stage: Stage
    to_stage: Stage
    reason: SwitchReason
    accuracy_average: float
    na_average: float
    dwell: int


class StageSchedule:
    """Schedule of stages. All track the averages of accuracy and N/A rate, for the log."""

    def __init__(self, start: Stage, rho: float, debias: bool) -> None:
        if start not in ("decision", "clue"):
            raise ValueError(f'a stage is "decision" or "clue", got {start!r}')
        if not 0 <= rho < 1:
            raise ValueError(f"rho (decay of the averages) must be in [0, 1), got {rho}")
        self.rho = rho
        self.debias = debias
        self.stage: Stage = start  # of the next iteration
        self.dwell = 0  # iterations done in this stage; 0 right after a switch
        self.iteration = 0  # iterations done altogether
        self.last_reason: SwitchReason | None = None  # of the switch in the last `update`; None if there was none
        self.history: list[SwitchEvent] = []  # every switch so far
        self._start_averages()

    def _start_averages(self) -> None:
        self._accuracy = 0.0
        self._na = 0.0
        self._n_averaged = 0

    @property
    def accuracy_average(self) -> float:
        """Moving average of the accuracy, bias-corrected if `debias`; 0 before the first iteration."""
        return self._corrected(self._accuracy)

    @property
    def na_average(self) -> float:
        """Moving average of the N/A rate, bias-corrected if `debias`; 0 before the first iteration."""
        return self._corrected(self._na)

    def _corrected(self, average: float) -> float:
        return average / (1 - self.rho**self._n_averaged) if self.debias and self._n_averaged else average

    def update(self, accuracy: float, na_rate: float) -> Stage:
        """The next iteration's stage, given one's accuracy and N/A rate. Raises ValueError for a share outside 0..1."""
        for name, share in (("accuracy", accuracy), ("na_rate", na_rate)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in 0..1, got {share}")
        self._accuracy = self.rho * self._accuracy + (1 - self.rho) * accuracy
        self._na = self.rho * self._na + (1 - self.rho) * na_rate
        self._n_averaged += 1
        self.iteration += 1
        self.dwell += 1
        self.last_reason = self._reason_to_switch()
        if self.last_reason is not None:
            self._switch(self.last_reason)
        return self.stage

    def _reason_to_switch(self) -> SwitchReason | None:
        """Reason to end this stage now, or None. Averages and dwell are up to date."""
        return None

    def _switch(self, reason: SwitchReason) -> None:
        next_stage: Stage = "clue" if self.stage == "decision" else "decision"
        averages = self.accuracy_average, self.na_average
        self.history.append(SwitchEvent(self.iteration, self.stage, next_stage, reason, *averages, self.dwell))
        self.stage = next_stage
        self.dwell = 0

    def state_dict(self) -> dict[str, Any]:
        """State as JSON values, without the options, which are in the run's configuration."""
        return {
            "schedule": type(self).__name__,
            **{name.removeprefix("_"): getattr(self, name) for name in STATE},
            "history": [asdict(event) for event in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for the state of another schedule."""
        if state["schedule"] != type(self).__name__:
            raise ValueError(
                f"this state is of schedule {state['schedule']}, not {type(self).__name__}: "
                "resume with the schedule the run was started with"
            )
        for name in STATE:
            setattr(self, name, state[name.removeprefix("_")])
        self.history = [SwitchEvent(**event) for event in state["history"]]


@dataclass(eq=False)
class StageSwitch(StageSchedule):
    """Switch of Iterative-SPO (see the module), from the decision stage on. Raises ValueError for wrong options."""

    rho: float = 0.95  # decay of both averages
    acc_up: float = 0.9  # accuracy average from which the decision stage may end
    err_up: float = 0.4  # error average (1 - accuracy average) from which the clue stage may end
    na_up: float = 0.5  # N/A average from which the clue stage may end
    na_down: float = 0.1  # N/A average up to which the decision stage may end
    k_min: int = 5  # iterations a stage lasts at least before the rule may end it
    patience: int | None = 20  # iterations after which a stage ends regardless of the averages; None: never
    debias: bool = False  # compare averages divided by 1 - rho^t, t the iterations in them (not in the paper)
    reset_averages: bool = field(default=False, kw_only=True)  # both start again at 0 at a switch (not in the paper)

    def __post_init__(self) -> None:
        super().__init__("decision", self.rho, self.debias)
        for name in ("acc_up", "err_up", "na_up", "na_down"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.k_min < 0:
            raise ValueError(f"k_min must not be negative, got {self.k_min}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or None to turn it off, got {self.patience}")

    def _reason_to_switch(self) -> SwitchReason | None:
        if self.dwell >= self.k_min and self._rule_holds():
            return "rule"
        if self.patience is not None and self.dwell >= self.patience:
            return "patience"
        return None

    def _rule_holds(self) -> bool:
        if self.stage == "decision":
            return self.accuracy_average >= self.acc_up and self.na_average <= self.na_down
        return 1 - self.accuracy_average >= self.err_up or self.na_average >= self.na_up

    def _switch(self, reason: SwitchReason) -> None:
        super()._switch(reason)
        if self.reset_averages:
            self._start_averages()


class FixedStage(StageSchedule):
    """One stage for the whole run: "decision" only or "clue" only (paper, ablation)."""

    def __init__(self, stage: Stage, *, rho: float = 0.95, debias: bool = False) -> None:
        super().__init__(stage, rho, debias)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for the state of another schedule or of the other stage."""
        if state["stage"] != self.stage:
            raise ValueError(f"this state is of stage {state['stage']}, but the run is fixed to stage {self.stage}")
        super().load_state_dict(state)


class CycleStages(StageSchedule):
    """A cycle of iterations of the decision stage, then the clue stage (public code). Raises ValueError below 1."""

    def __init__(self, decision_steps: int, clue_steps: int, *, rho: float = 0.95, debias: bool = False) -> None:
        super().__init__("decision", rho, debias)
        if decision_steps < 1 or clue_steps < 1:
            raise ValueError(f"a cycle needs at least 1 step of each stage, got {decision_steps} and {clue_steps}")
        self.decision_steps = decision_steps
        self.clue_steps = clue_steps

    def _reason_to_switch(self) -> SwitchReason | None:
        steps = self.decision_steps if self.stage == "decision" else self.clue_steps
        return "cycle" if self.dwell >= steps else None
