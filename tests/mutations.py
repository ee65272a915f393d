"""Deliberate faults, each in a copy of the package: every one must make a test fail.

    make mutations        half an hour; results/mutations.json says which test caught which fault

A fault that nothing catches would mean that a promise can be broken unseen. The working tree is never
changed: faults go into a copy in a temporary folder, where the tests of shield, memory, step, bound,
guard, watchdog, scores and audit log run until the first one fails. First come the tests that caught
the fault when the file was last written, or its module's own, in a process of their own: most faults
take seconds. A run that was stopped goes on where it was, while the package's code is the same.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rapgym.files import provenance, writing
from rapgym.jobs import kept

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "baselines" / "results" / "mutations.json"
TESTS = (
    "world/test_shield.py",
    "model/test_memory.py",
    "world/test_simulator.py",
    "world/test_bound.py",
    "world/test_whole_second.py",
    "guard/test_guard.py",
    "guard/test_watchdog.py",
    "world/test_simulator_properties.py",
    "rollout/test_rollout.py",
    "bench/test_score.py",
    "learning/test_counterfactual.py",
    "audit/test_audit_log.py",
    "audit/test_audit_replay.py",
    "audit/test_audit_step.py",
    "world/test_encoding.py",
    "test_heldout.py",
    "policies/test_trained.py",
    "bench/test_pieces.py",
    "bench/test_scoreboard.py",
    "scenarios/test_card.py",
    "scenarios/test_scenario.py",
    "scenarios/test_file.py",
    "world/test_compiled_step.py",
    "quality/test_quality.py",
    "bench/test_bench_records.py",
    "bench/test_bench.py",
)
# A module's own tests go first, so that most faults take seconds.
OWN = {
    "world/reward": "world/test_simulator.py",
    "world/stall": "world/test_simulator.py",
    "world/records": "world/test_simulator.py",
    "world/plan": "world/test_bound.py",
    "world/kernel": "world/test_compiled_step.py",
    "learning/hindsight/counterfactual": "learning/test_counterfactual.py",
    "audit/entry": "audit/test_audit_replay.py",
    "audit/read": "audit/test_audit_replay.py",
    "audit/file": "audit/test_audit_log.py",
    "audit/record": "audit/test_audit_log.py",
    "audit/step": "audit/test_audit_step.py",
    "heldout": "test_heldout.py",
    "bench/verdicts": "bench/test_scoreboard.py",
    "bench/results": "bench/test_bench.py",
    "scenarios/story": "scenarios/test_scenario.py",
    "quality/columns": "quality/test_quality.py",
}


# Appended to the copy's conftest: a fault is caught by any example; the shortest is not looked for.
NO_SHRINKING = """
from hypothesis import Phase

settings.register_profile(
    "faults", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("faults")
"""
# A fault may make a loop endless: then time catches it, and the file says so.
LIMIT_S, TIMES_LONGER = 300.0, 3.0  # the longer: of what the same tests take without a fault


@dataclass(frozen=True)
class Fault:
    """One deliberate fault: the first place where `before` stands becomes `after`."""

    what: str
    module: str  # of rapgym
    before: str
    after: str


def own_tests(module: str) -> str:
    folder, _, name = module.rpartition("/")
    return OWN.get(module, f"{folder}/test_{name}.py")


FAULTS = (
    Fault("the floor is forgotten", "world/shield",
          "kept = proposal | blocks.floor_of(order, proposal.shape[-1])", "kept = proposal.copy()"),
    Fault("the floor is empty", "model/blocks", "floor[np.asarray(order, dtype=np.int64)] = False", "floor[:] = False"),
    Fault("a byte more is freed than is missing", "world/shield", "[..., order], excess)", "[..., order], excess + 1)"),
    Fault("nothing is cut", "world/shield", "kept[..., order] &= cut(", "cut("),
    Fault("one block too few goes", "world/shield", "- costs >= excess[..., None]", "> excess[..., None]"),
    Fault("what is needless is not given back", "world/shield", "needless = ~stays & (costs <= slack[..., None])",
          "needless = ~stays & (costs < 0)"),
    Fault("more is given back than fits", "world/shield", "returns = needless[..., position] & (costs[..., position] <= slack)",
          "returns = needless[..., position]"),
    Fault("what misses by a byte is executed", "world/shield", "refused = spent(wanted, costs) > budget",
          "refused = spent(wanted, costs) > budget + 1"),
    Fault("misfits are never refused", "world/shield", "refused = (spent(kept, costs) > budget) | (repaired & refuses_misfit)",
          "refused = repaired & refuses_misfit"),
    Fault("a repair calls itself the policy's", "world/shield", "Reason.REPAIRED, source)", "Reason.POLICY, source)"),
    Fault("NaN is read as True", "world/shield", "if bool((array == proposal).all()) else None", "if array.size else None"),
    Fault("an unsigned 2 is read as True", "world/shield", "if bool((array == proposal).all()) else None",
          'if array.dtype.kind == "u" or bool((array == proposal).all()) else None'),
    Fault("an interrupt is swallowed", "world/shield", "    except KeyboardInterrupt:\n        raise\n", ""),
    Fault("KV cache is forgotten in used bytes", "model/memory",
          "+ attention * self.kept_attention_bytes(tokens)",
          "+ attention * self.attention_bytes"),
    Fault("KV cache is forgotten in block bytes", "model/memory",
          "self.kept_attention_bytes(tokens)[..., None]",
          "(self.attention_bytes + 0 * tokens)[..., None]"),
    Fault("KV cache is rounded down", "model/memory", "-(-whole // self.layers)", "whole // self.layers"),
    Fault("blocks that are spread are rounded down", "model/memory", "-(-model.layers * block_bytes // layers)",
          "model.layers * block_bytes // layers"),
    Fault("a world is of the measured model's bytes", "scenarios/card",
          "model_spec(table.model if story.stand_in else story.served)", "model_spec(table.model)"),
    Fault("what a format costs is forgotten in what was measured", "quality/columns",
          "sets=replace(self.sets, nll=self.sets.nll + added)", "sets=self.sets"),
    Fault("what a format costs is forgotten in what is predicted", "quality/columns",
          "np.round(predicted, 6) + self.added", "np.round(predicted, 6)"),
    Fault("what a format costs is forgotten in M", "quality/columns", "at_counts=self.at_counts + added,", ""),
    Fault("keys without values", "model/memory", "return 2 * model.kv_heads * model.head_dim * BF16_BYTES",
          "return model.kv_heads * model.head_dim * BF16_BYTES"),
    Fault("scales of a short group are not counted", "model/memory", "groups = -(-in_features // INT4_GROUP)",
          "groups = in_features // INT4_GROUP"),
    Fault("the margin is forgotten", "model/memory", "always = self.fixed_bytes + self.margin_bytes", "always = self.fixed_bytes"),
    Fault("activations are forgotten", "world/simulator", "prompts = self.demand.prompt_tokens[:, None]",
          "prompts = 0 * self.demand.prompt_tokens[:, None]"),
    Fault("a fall to exactly what is in use cuts", "world/simulator", "(spent(self.kept, self.costs) > budget)\n        if falls",
          "(spent(self.kept, self.costs) >= budget)\n        if falls"),
    Fault("a fall that refuses is not told", "world/simulator", "self.falls.append(Fall(second, where, before, kept, refused))",
          "self.falls += [Fall(second, where, before, kept, refused)] * (not refused.any())"),
    Fault("a stall does not end with its second", "world/stall", "return np.minimum(left_s, able_s)", "return left_s"),
    Fault("an emergency loses its whole second", "world/stall", "min(world.reaction_s, 1.0)", "1.0"),
    Fault("a long reaction loses more than its second", "world/stall", "min(world.reaction_s, 1.0)", "world.reaction_s"),
    Fault("notice spares no reaction", "world/stall", "0.0 if world.notice_s >= 1 else ", ""),
    Fault("the rest of an emergency's second is lost", "world/simulator", "1.0 - paused_s, 0.0)", "1.0 - np.ceil(paused_s), 0.0)"),
    Fault("a reload goes on while blocks leave", "world/simulator", "stalled = stall.in_second(stall_left, able_s)",
          "stalled = stall.in_second(stall_left, np.where(serving, 1.0, 0.0))"),
    Fault("an emergency is served by the set before it", "world/simulator",
          "loss[falls] = reward.token_loss(nll, self.world.ceiling)", "reward.token_loss(nll, self.world.ceiling)"),
    Fault("bytes of the blocks that go", "model/memory", "np.vecdot(kept, costs)", "np.vecdot(~kept, costs)"),
    Fault("a packed set is read a block late", "model/blocks", "np.packbits(kept, axis=-1)", "np.packbits(np.roll(kept, 1, axis=-1), axis=-1)"),
    Fault("lanes are put where they were", "world/records", "whole.row[lanes], whole.limit_row[lanes] = part.row, part.limit_row",
          "whole.limit_row[lanes] = part.limit_row"),
    Fault("emergencies are served", "world/simulator", "able_s = np.where(serving, 1.0 - paused_s, 0.0)",
          "able_s = np.where(serving, 1.0, 0.0)"),
    Fault("stalls never end", "world/simulator", "stall_left -= stalled", "stall_left -= 0 * stalled"),
    Fault("what comes back is free", "world/stall", "memory.spent(kept & ~loaded, footprint.weights)",
          "memory.spent(kept & ~kept, footprint.weights)"),
    Fault("calm rows do not stall", "world/simulator", "loss=np.where(eventful, 0.0, (window_s - stalled) * loss)",
          "loss=np.where(eventful, 0.0, window_s * loss)"),
    Fault("a cost is not clipped at C", "world/reward", "return np.minimum(nll, ceiling)", "return nll"),
    Fault("refused seconds cost nothing", "world/reward", "refused=share * ceiling * seconds.refused", "refused=0 * share * seconds.refused"),
    Fault("the bound pays for dropping", "world/bound", "np.maximum(self.a[:, None] - self.a, 0)", "np.abs(self.a[:, None] - self.a)"),
    Fault("the bound cannot refuse", "world/bound", "to_come[second] = np.minimum(go_on, refusing[second])", "to_come[second] = go_on"),
    Fault("the bound lands where it does not fit", "world/bound", "np.where(fits[second], after + landed, np.inf)",
          "after + lost + 1.0"),
    Fault("the bound loses an emergency's whole second", "world/bound",
          "landed = pause_s * lost + (1.0 - pause_s) * served", "landed = lost if pause_s else served"),
    Fault("the bound loses nothing in an emergency", "world/bound",
          "landed = pause_s * lost + (1.0 - pause_s) * served", "landed = served"),
    Fault("planning forgets reloads that are interrupted", "world/plan", "for stretch in waits:", "for stretch in waits[:1]:"),
    Fault("planning reloads while blocks leave", "world/plan", "able_s[fall.lanes] -= stall.pause_s(world)",
          "able_s[fall.lanes] -= 0 * stall.pause_s(world)"),
    Fault("an emergency is free in counterfactuals", "learning/hindsight/counterfactual",
          "cost += pause_s * (passed > before)", "cost += 0 * pause_s * (passed > before)"),
    Fault("a late answer counts", "guard/guard", "usable = readable & (not late)", "usable = readable"),
    Fault("the watchdog outranks the operator", "guard/guard", "return np.where(pinned[:, None], pins, proposal), source",
          "return proposal, source"),
    Fault("the watchdog never trips", "guard/watchdog", "trips = decides & (dear | (ample >= rules.ample_rows))",
          "trips = decides & (ample >= rules.ample_rows)"),
    Fault("a second pin releases the first", "guard/guard", "chosen | (~every if self._pinned is None else self._pinned)", "chosen | ~every"),
    Fault("a second pin is pinned everywhere", "guard/guard", "self._pins[chosen] = read", "self._pins[...] = read"),
    Fault("the shadow leaves at a fallback", "guard/guard",
          "own = (decided.source == Reason.POLICY) | (decided.source == Reason.FALLBACK)", "own = decided.source == Reason.POLICY"),
    Fault("the shadow follows a pin", "guard/guard",
          "own = (decided.source == Reason.POLICY) | (decided.source == Reason.FALLBACK)", "own = decided.source != Reason.WATCHDOG"),
    Fault("ample rows need not be on end", "guard/watchdog", "np.where(decides & wasted, state.ample + 1, 0)",
          "np.where(decides & wasted, state.ample + 1, state.ample)"),
    Fault("it hands back unproven", "guard/watchdog", "(state.rows >= rules.hand_back_rows) & proven", "(state.rows >= rules.hand_back_rows)"),
    Fault("the table's error is no part of the interval", "bench/score", "if error:", "if error < 0:"),
    Fault("seeds are drawn as often as there are", "bench/score", "rng.multinomial(seeds - 1,", "rng.multinomial(4 * seeds,"),
    Fault("few pieces claim what many do", "bench/score", "if len(pieces) >= LEAST_PIECES", "if len(pieces)"),
    Fault("less output than none is expected", "learning/hindsight/counterfactual", "np.maximum(mean + slope * centred, 0.0)",
          "(mean + slope * centred)"),
    Fault("a log may begin anywhere", "audit/read", '(kind != "open" or previous != FIRST)', 'kind != "open"'),
    Fault("what begins anywhere is gone on with", "audit/file", """ + chain.FIRST.encode() + b'"'""", ""),
    Fault("tokens below none are read", "audit/record", "self.low <= value <= self.high",
          "self.low - 1 <= value <= self.high"),
    Fault("counts below none are written", "audit/record", "bounds[0] <= min(column)", "bounds[0] - 1 <= min(column)"),
    Fault("late by a moment is in time", "audit/step", "max(1, int(np.ceil(decided.spent_us - deadline_us)))",
          "int(decided.spent_us - deadline_us)"),
    Fault("a batch is seen in other units", "world/encoding", "(asked.batch / BATCH_UNIT)[:, None],",
          "(asked.batch / 1.0)[:, None],"),
    Fault("the reserve is not seen", "world/encoding", "(asked.reserved_tokens / unit)[:, None],",
          "(asked.prompt_tokens / unit)[:, None],"),
    Fault("the longest request is not seen", "world/encoding", "(asked.longest_tokens / unit)[:, None],",
          "(asked.prompt_tokens / unit)[:, None],"),
    Fault("limits are seen too large", "world/encoding",
          "np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)", "near"),
    Fault("rows before the episode are seen", "world/encoding", "np.where(age[:, None] >= _BACK, _BACK, 0)",
          "0 * age[:, None] + _BACK"),
    Fault("limits of the row to come are seen", "world/encoding", "(state.limit_row + row) % rows",
          "(state.limit_row + row + 1) % rows"),
    Fault("headroom forgets the margin", "world/encoding", "- used - foot.margin_bytes)", "- used)"),
    Fault("headroom of what is loaded is dense's", "world/encoding", "_headroom(world, where, seen, seen.loaded),",
          "_headroom(world, where, seen, dense),"),
    Fault("the KV share is of one layer", "world/encoding", "world.footprint.layers * world.footprint.kv_bytes(asked.tokens)",
          "world.footprint.kv_bytes(asked.tokens)"),
    Fault("tokens are read a token short", "world/encoding", "np.rint(part(name)[:, 0] * where.token_unit)",
          "np.floor(part(name)[:, 0] * where.token_unit)"),
    Fault("history is seen newest first", "world/encoding", "np.arange(HISTORY, 0, -1)", "np.arange(1, HISTORY + 1)"),
    Fault("features are not cut", "world/encoding", "np.clip(np.concatenate(columns, axis=1), -LARGEST, LARGEST)",
          "np.concatenate(columns, axis=1)"),
    Fault("what training asks for is not checked", "heldout", "if what not in allowed:", "if not allowed:"),
    Fault("of guards inside each other the last one holds", "heldout", "for allowed, opened in _guards:",
          "for allowed, opened in _guards[-1:]:"),
    Fault("what was opened is not told", "heldout", "opened.add(what)", "opened.discard(what)"),
    Fault("a guard outlives its training", "heldout", "_guards.pop()", "_guards[:] = _guards"),
    Fault("what a policy opened is not looked at", "policies/trained", "for name in opened} - MAY_OPEN[self.told]",
          "for name in opened} - {*opened}"),
    Fault("what is told of a part may open all of train", "policies/trained", "for name in opened} - MAY_OPEN[self.told]",
          'for name in opened} - MAY_OPEN["train"]'),
    Fault("a policy need not say what it opened", "policies/trained", "if not isinstance(opened, list) or not opened:",
          "if opened is not None and not isinstance(opened, list):\n            opened = []\n        if opened is None:\n            return\n        if not isinstance(opened, list):"),
    Fault("another policy than was meant is read", "policies/trained", "(found := checked.sha256_once(path)) != sha256",
          '(found := checked.sha256_once(path)) == ""'),
    Fault("a policy's name leads out of its folder", "policies/trained", "if not all(_STEP.fullmatch(step)",
          "if not all(step or _STEP.fullmatch(step)"),
    Fault("weights may be infinite", "policies/trained", 'if dtype.kind == "f" and not np.isfinite(array).all():',
          'if dtype.kind == "f" and np.isnan(array).all() and array.size > 1000:'),
    Fault("weights may be anything", "policies/trained", "dtype.kind not in KINDS or dtype.hasobject or ", ""),
    Fault("a seed may be below none", "policies/trained", ' or header["seed"] < 0:', ":"),
    Fault("seeds come in any order", "policies/trained", "return sorted(found)", "return sorted(found, reverse=True)"),
    Fault("served and tenant time are drawn as one", "bench/score", "tenant = draws(len(pieces), rng, count)", "tenant = served"),
    Fault("tenant rows turn the other way", "bench/score", "np.roll(of_row, -int(offset))", "np.roll(of_row, int(offset))"),
    Fault("a score's sign is turned", "bench/score", "ratio(reference - policy, room", "ratio(policy - reference, room"),
    Fault("intervals are of 90 %", "bench/score", "ALPHA = 0.05", "ALPHA = 0.1"),
    Fault("Holm does not step down", "bench/score", "(len(p) - step) * p[i]", "len(p) * p[i]"),
    Fault("Holm is not monotone", "bench/score", "worst = max(worst, min(1.0,", "worst = max(0.0, min(1.0,"),
    Fault("p-values are one-sided", "bench/score", "min(1.0, 2 * (int(beyond) + 1)", "min(1.0, 1 * (int(beyond) + 1)"),
    Fault("few pieces are taken for many", "bench/score", "freedom = max(pieces - 1, 3)", "freedom = 1e9"),
    Fault("the first seed stands for all", "bench/score", "float(np.mean([each.total for each in seeds]))", "seeds[0].total"),
    Fault("the least effect is shown by half", "bench/score", "POWER = 0.8", "POWER = 0.5"),
    Fault("each row in which the model does not fit is a burst", "bench/pieces",
          "np.flatnonzero(~fits & np.append(True, fits[:-1]))", "np.flatnonzero(~fits)"),
    Fault("pieces cross seams", "bench/pieces", "return first if begins is None else np.union1d(first, np.flatnonzero(begins))",
          "return first"),
    Fault("a day has 23 hours", "bench/pieces", '"day": 86400', '"day": 82800'),
    Fault("three times too much is equal", "bench/verdicts", "if furthest <= within:", "if furthest <= 3 * within:"),
    Fault("few pieces allow a verdict", "bench/verdicts", "if np.isnan(odds):", "if odds == np.inf:"),
    Fault("better and worse are exchanged", "bench/verdicts", '"better" if found.value < 0 else "worse"',
          '"worse" if found.value < 0 else "better"'),
    Fault("a card may have no memory", "scenarios/story", 'require("card_gib", _positive(self.card_gib)', 'require("card_gib", True'),
    Fault("notice may be below none", "scenarios/story", 'require("notice_s", self.notice_s >= 0', 'require("notice_s", True'),
    Fault("an own scenario's name is part of its key", "scenarios/story", "if not self.is_own:\n            return self.id",
          "return self.id"),
    Fault("a restored scenario forgets its format", "scenarios/story", 'values["form"] = Format(**form)',
          'values["form"] = BF16'),
    Fault("the tenant's weights are free", "scenarios/card", "card - memory.weight_bytes(model) - kv * tenant_tokens",
          "card - kv * tenant_tokens"),
    Fault("the tenant's KV cache is free", "scenarios/card", "card - memory.weight_bytes(model) - kv * tenant_tokens",
          "card - memory.weight_bytes(model) - 0 * tenant_tokens"),
    Fault("a recording counts single bytes", "scenarios/card", "series.UNIT_BYTES * tenant_tokens", "tenant_tokens"),
    Fault("minus zero is another cost", "bench/results", "np.round(column, DECIMALS) + 0.0", "np.round(column, DECIMALS)"),
    Fault("results' rows may come in any order", "bench/results",
          "if (order[ends[i] : ends[i + 1]] != place.T.ravel()).any():", "if len(order) < 0:"),
    Fault("compiled: a fall of a byte is not met", "world/kernel", "if held > budget:", "if held > budget + 1:"),
    Fault("compiled: what a policy declares is forgotten", "world/kernel",
          "refused_now = left > 0 or lanes.strict[lane]", "refused_now = left > 0"),
    Fault("compiled: blocks return while the server pauses", "world/kernel", "stalled = min(left_s, able_s)",
          "stalled = min(left_s, 1.0)"),
    Fault("compiled: an emergency costs nothing", "world/kernel", "emergency_s += f.rates[PAUSE]",
          "emergency_s += 0 * f.rates[PAUSE]"),
    Fault("compiled: an episode sees what was before it", "world/kernel", "known = min(age[lane], back)", "known = back"),
    Fault("compiled: sets are told apart by their last word alone", "world/kernel",
          "same &= entries.keys[place, word] == key[word]", "same = entries.keys[place, word] == key[word]"),
    Fault("results of another edition are read", "bench/results", 'if header.get("schema") != SCHEMA:',
          'if header.get("schema") is None:'),
)  # fmt: skip


def copied(folder: Path) -> Path:
    """The package and its tests, as they lie in a clone."""
    kept = shutil.ignore_patterns("__pycache__", "trained")
    for name in ("rapgym", "baselines", "traces", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=kept)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    with (folder / "tests" / "conftest.py").open("a") as file:
        file.write(NO_SHRINKING)
    return folder


def tried(fault: Fault | None, folder: Path, first: str, limit_s: float) -> dict[str, Any]:
    """Run the tests with a fault in place, and take it out again.

    Args:
        first: a file of tests that is run before the others.
        limit_s: how long they may take.

    Raises:
        SystemExit: the fault's place is gone: the code has changed, and so must the list.
    """
    path = folder / "rapgym" / f"{fault.module}.py" if fault else None
    before = path.read_text() if path else ""
    if fault and path:
        if fault.before not in before:
            raise SystemExit(f"{fault.what}: {fault.module}.py no longer holds {fault.before!r}")
        path.write_text(before.replace(fault.before, fault.after, 1))
    begin = time.perf_counter()
    try:
        caught = failure((first,), folder, limit_s) if first in TESTS else ""
        caught = caught or failure([each for each in TESTS if each != first], folder, limit_s)
    finally:
        if path:
            path.write_text(before)
    return {"caught_by": caught, "seconds": round(time.perf_counter() - begin, 1)}


def failure(tests: Sequence[str], folder: Path, limit_s: float) -> str:
    """The first test of these files that fails; empty where none does."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p",
               "no:xdist", *(f"tests/{name}" for name in tests)]  # fmt: skip
    surroundings = os.environ | {"PYTHONPATH": str(folder), "CI": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True,
                              timeout=limit_s)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {limit_s:.0f} s"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    return failed[1] if failed else "" if done.returncode == 0 else done.stdout[-300:]


def once_caught(entry: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run found, if a test caught the fault: one that survived is tried again.

    Raises:
        ValueError: it survived.
    """
    if not entry["caught_by"]:
        raise ValueError("it survived")
    return entry


def likeliest(out: Path) -> dict[str, str]:
    """The file of tests that caught each fault when the results were last written."""
    listed = json.loads(out.read_text())["faults"] if out.is_file() else []
    files = {each["what"]: each["caught_by"].partition("::")[0] for each in listed}
    return {what: file.removeprefix("tests/") for what, file in files.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORDS",
                        help="only faults whose description has these words; nothing is kept")  # fmt: skip
    asked = parser.parse_args()
    out, faults = asked.out, [fault for fault in FAULTS if asked.only in fault.what]
    found: dict[int, dict[str, Any]] = {}
    last = likeliest(out)
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        # It also compiles what no fault touches.
        whole: dict[str, Any] = {"caught_by": "", "seconds": 0.0}
        if not asked.only:
            whole = tried(None, folder, "", 3600.0)
        limit_s = max(LIMIT_S, TIMES_LONGER * whole["seconds"])
        if whole["caught_by"]:
            print(f"without any fault the tests fail: {whole['caught_by']}", file=sys.stderr)
            return 1
        work = (folder if asked.only else out.parent) / "mutations.work.jsonl"
        code = provenance.files_sha256(provenance.code_files())
        calls = [
            partial(tried, fault, folder, last.get(fault.what, own_tests(fault.module)), limit_s)
            for fault in faults
        ]
        bases = [[code, asdict(fault)] for fault in faults]
        for i, result, _ in kept.results(calls, bases, work, jobs=1, read=once_caught):
            fault = faults[i]
            told = result["caught_by"] or "SURVIVED"
            print(f"{fault.module:10} {fault.what:45} {told}", flush=True)
            found[i] = {**asdict(fault), **result}
    listed = [found[i] for i in sorted(found)]
    survived = [each["what"] for each in listed if not each["caught_by"]]
    if asked.only:
        return int(bool(survived) or not listed)
    content = {"command": "make mutations", "tests": [*TESTS], "without_fault_s": whole["seconds"],
               "faults": listed, "survived": survived}  # fmt: skip
    with writing.written_aside(out) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    if not survived:
        work.unlink(missing_ok=True)
    print(f"{len(found) - len(survived)} of {len(found)} caught")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main())
