"""Conversations side by side with a model that often fails: `benchmarks/soak.py`, in small."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from soak import FAULTS, soak, table

QUICK = {"hedge_after": 0.4, "first_token_timeout": 1.2, "stall_timeout": 0.4, "turn_timeout": 3.0}


def test_many_faulty_conversations_end_in_no_silence_no_second_run_and_no_leak():
    soaked = soak(12, 6, pause=0.3, faults=0.3, minutes=1, **QUICK)
    found, shown = soaked.found, table(soaked)
    assert found.turns == 12 * 6, shown
    assert sum(soaked.met[name] > 0 for name in FAULTS) >= len(FAULTS) // 2, shown
    assert sum(found.handled.values()) + found.hedges_won >= 10, shown
    assert found.silent == [], shown
    assert found.wrong == [], shown
    assert (found.twice, found.never) == (0, 0), shown
    # What met more faults than the attempts of a turn is told, and only that.
    assert found.whole + sum(found.told.values()) == found.turns, shown
    assert sum(found.told.values()) < found.turns / 3, shown
    assert set(found.told) <= {"server", "stream", "unreachable", "timeout", "capacity"}, shown
    assert soaked.late.tasks == soaked.early.tasks, shown
    assert soaked.late.sockets <= soaked.early.sockets + 2, shown
    assert (soaked.left.sockets, soaked.left.tasks) == (0, 1), shown
    assert soaked.late.megabytes < soaked.early.megabytes + 20, shown
