"""Conversations side by side with a model that often fails: `benchmarks/soak.py`, in small."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from soak import FAULTS, soak, table

QUICK = {"hedge_after": 0.4, "first_token_timeout": 1.2, "stall_timeout": 0.4, "turn_timeout": 3.0}


def test_many_faulty_conversations_end_in_no_silence_no_second_run_and_no_leak():
    result = soak(12, 6, pause=0.3, faults=0.3, minutes=1, **QUICK)
    found, shown = result.found, table(result)
    assert found.turns == 12 * 6, shown
    assert sum(result.counts[name] > 0 for name in FAULTS) >= len(FAULTS) // 2, shown
    assert sum(found.handled.values()) + found.hedges_won >= 10, shown
    assert found.silent == [], shown
    assert found.wrong == [], shown
    assert (found.twice, found.never) == (0, 0), shown
    # What met more faults than the attempts of a turn ends in an error, and nothing else does.
    assert found.whole + sum(found.errors.values()) == found.turns, shown
    assert sum(found.errors.values()) < found.turns / 3, shown
    assert set(found.errors) <= {"server", "stream", "unreachable", "timeout", "capacity"}, shown
    assert result.late.tasks == result.early.tasks, shown
    assert result.late.sockets <= result.early.sockets + 2, shown
    assert (result.left.sockets, result.left.tasks) == (0, 1), shown
    assert result.late.megabytes < result.early.megabytes + 20, shown
