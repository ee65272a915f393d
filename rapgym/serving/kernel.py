"""The engine compiled: the same as `engine.Engine`, for many lanes.

Arrays in the place of objects; the words are those of the reference, which says why. A lane's state is
one `Lane`; nothing is allocated while it runs.
"""

from typing import NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import inlined, uncounted, uncounted_inner
from rapgym.serving.card import ATTENTION, FFN, Card
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.engine import DROP
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests

NEVER = -1
# Places in `Lane.number` and `Lane.count`.
NOW_S, READY_S, SHED_S, SHEDS_NEXT_S = range(4)
(ATTENTION_DROPPED, FFN_DROPPED, LOADING, ARRIVED, WAITING_FIRST, WAITING, RUNNING, FORMED,
 FORMED_FIRST, PAGES_USED, PAGES_FREE, PAGES_MADE, FREE_FIRST, FREE_LAST, SPARE, STEPS,
 STEP_TOKENS, PREEMPTIONS, SHED, DELIVERED) = range(20)  # fmt: skip
COUNTS = 20
MOST_TOGETHER = 128  # steps that run together


class World(NamedTuple):
    """What does not change while a lane runs."""

    arrival_s: FloatArray
    prompt: IntArray
    output: IntArray
    begins_like: IntArray
    shared_pages: IntArray
    first_key: IntArray  # of each request's pages among all, [R + 1]; empty without a prefix cache
    limit_bytes: IntArray
    goes_next: IntArray
    nll: FloatArray
    history_share: FloatArray
    # attention_bytes, ffn_bytes, kv of a token and block, fixed bytes, layers
    sizes: IntArray
    # link_bytes_per_s, reaction_s, ceiling, ttft_s, ttft_token_s, tpot_s, late_s
    rates: FloatArray
    # base_s, weight_bytes_per_s, tokens_per_s, kv_bytes_per_s, pair_s, sequence_s
    profile: FloatArray
    # step_tokens, max_sequences, page_tokens, reserved_pages, lookahead, prefix_cache
    rules: IntArray


class Lane(NamedTuple):
    """One replica's state."""

    number: FloatArray
    counts: IntArray
    waiting: IntArray  # ring of requests
    running: IntArray  # requests in the order of admission
    # Of each request, [R].
    target: IntArray
    planned: IntArray
    promised: IntArray
    made: IntArray
    pages: IntArray
    starts: IntArray
    attention: IntArray
    ffn: IntArray
    is_running: BoolArray
    preemptions: IntArray
    scheduled_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    shed_s: FloatArray
    cost: FloatArray  # summed over its output tokens
    nats: FloatArray  # the same of quality alone, of what was delivered
    on_time: IntArray  # tokens
    # Formed steps, a ring: request, start, tokens, context, decodes, makes, [lookahead + 2,
    # max_sequences, 6]; sizes.
    batch: IntArray
    batch_size: IntArray
    # Notes of steps that run together: when each ended, [MOST_TOGETHER]; how many sequences need a page in
    # each, [page_tokens].
    ended_s: FloatArray
    crossing: IntArray
    # With a prefix cache: the page under each key of a request, what each page holds, free pages.
    held: IntArray
    page_of: IntArray
    key_of: IntArray
    holders: IntArray
    after: IntArray
    before: IntArray


# Memory and blocks


@inlined
def _token_bytes(w: World, attention: int) -> int:
    return (w.sizes[4] - attention) * w.sizes[2]


@inlined
def _weight_bytes(w: World, attention: int, ffn: int) -> int:
    return (w.sizes[4] - attention) * w.sizes[0] + (w.sizes[4] - ffn) * w.sizes[1]


@inlined
def _used_bytes(w: World, attention: int, ffn: int, tokens: int) -> int:
    weights = _weight_bytes(w, attention, ffn)
    return w.sizes[3] + weights + tokens * _token_bytes(w, attention)


@inlined
def _limit(w: World, now_s: float) -> int:
    return w.limit_bytes[min(int(now_s), len(w.limit_bytes) - 1)]


@inlined
def _fits(w: World, lane: Lane, attention: int, ffn: int) -> bool:
    taken = (lane.counts[PAGES_USED] + w.rules[3]) * w.rules[2]
    return _used_bytes(w, attention, ffn, taken) <= _limit(w, lane.number[NOW_S])


@inlined
def _held(lane: Lane) -> tuple[int, int]:
    loading = lane.counts[LOADING]
    return (
        lane.counts[ATTENTION_DROPPED] - (loading == ATTENTION),
        lane.counts[FFN_DROPPED] - (loading == FFN),
    )


@uncounted_inner
def _preempt_until_it_fits(w: World, lane: Lane) -> None:
    count = lane.counts
    while count[RUNNING] and not _fits(w, lane, count[ATTENTION_DROPPED], count[FFN_DROPPED]):
        _cancel(lane, lane.running[count[RUNNING] - 1])
        _preempt(w, lane)


@uncounted_inner
def _drop_until_it_fits(w: World, lane: Lane) -> None:
    count, (attentions, ffns) = lane.counts, w.goes_next.shape
    while not _fits(w, lane, count[ATTENTION_DROPPED], count[FFN_DROPPED]):
        attention, ffn = count[ATTENTION_DROPPED], count[FFN_DROPPED]
        if attention == attentions - 1 and ffn == ffns - 1:
            return
        if w.goes_next[attention, ffn] == ATTENTION:
            count[ATTENTION_DROPPED] += 1
        else:
            count[FFN_DROPPED] += 1


@inlined
def _answer_fall(w: World, lane: Lane, on_fall: int) -> None:
    count, (attentions, ffns) = lane.counts, w.goes_next.shape
    if _fits(w, lane, *_held(lane)):
        return
    if count[RUNNING] or count[ATTENTION_DROPPED] < attentions - 1 or count[FFN_DROPPED] < ffns - 1:
        lane.number[NOW_S] += w.rates[1]
    count[LOADING] = NEVER
    if on_fall == DROP:
        _drop_until_it_fits(w, lane)
        _preempt_until_it_fits(w, lane)
    else:
        _preempt_until_it_fits(w, lane)
        _drop_until_it_fits(w, lane)


@uncounted_inner
def _begin_loading(w: World, lane: Lane, kind: int) -> bool:
    count = lane.counts
    attention = count[ATTENTION_DROPPED] - (kind == ATTENTION)
    ffn = count[FFN_DROPPED] - (kind == FFN)
    if not _fits(w, lane, attention, ffn):
        return False
    count[LOADING] = kind
    size = w.sizes[0] if kind == ATTENTION else w.sizes[1]
    lane.number[READY_S] = lane.number[NOW_S] + size / w.rates[0]
    return True


@inlined
def _move_blocks(w: World, lane: Lane, attention: int, ffn: int) -> None:
    count = lane.counts
    if count[LOADING] != NEVER and lane.number[READY_S] <= lane.number[NOW_S]:
        count[ATTENTION_DROPPED], count[FFN_DROPPED] = _held(lane)
        count[LOADING] = NEVER
    if count[LOADING] != NEVER:
        held_attention, held_ffn = _held(lane)
        if held_attention < attention if count[LOADING] == ATTENTION else held_ffn < ffn:
            count[LOADING] = NEVER
    count[ATTENTION_DROPPED] = max(count[ATTENTION_DROPPED], attention)
    count[FFN_DROPPED] = max(count[FFN_DROPPED], ffn)
    if count[LOADING] != NEVER:
        return
    of_attention, of_ffn = count[ATTENTION_DROPPED] > attention, count[FFN_DROPPED] > ffn
    first = ATTENTION if of_attention else FFN
    if of_attention and of_ffn:
        goes = w.goes_next[count[ATTENTION_DROPPED] - 1, count[FFN_DROPPED] - 1]
        first = FFN if goes == ATTENTION else ATTENTION
    if of_attention or of_ffn:
        loads = _begin_loading(w, lane, first)
        if not loads and of_attention and of_ffn:
            _begin_loading(w, lane, FFN if first == ATTENTION else ATTENTION)


# Pages


@uncounted_inner
def _forget(lane: Lane, page: int) -> None:
    key = lane.key_of[page]
    if key != NEVER:
        lane.key_of[page] = NEVER
        if lane.page_of[key] == page:
            lane.page_of[key] = NEVER


@uncounted_inner
def _unlink(lane: Lane, page: int) -> None:
    count, before, after = lane.counts, lane.before[page], lane.after[page]
    if before == NEVER:
        count[FREE_FIRST] = after
    else:
        lane.after[before] = after
    if after == NEVER:
        count[FREE_LAST] = before
    else:
        lane.before[after] = before
    count[PAGES_FREE] -= 1


@uncounted_inner
def _link_first(lane: Lane, page: int) -> None:
    count = lane.counts
    lane.before[page], lane.after[page] = NEVER, count[FREE_FIRST]
    if count[FREE_FIRST] == NEVER:
        count[FREE_LAST] = page
    else:
        lane.before[count[FREE_FIRST]] = page
    count[FREE_FIRST] = page
    count[PAGES_FREE] += 1


@uncounted_inner
def _link_last(lane: Lane, page: int) -> None:
    count = lane.counts
    lane.before[page], lane.after[page] = count[FREE_LAST], NEVER
    if count[FREE_LAST] == NEVER:
        count[FREE_FIRST] = page
    else:
        lane.after[count[FREE_LAST]] = page
    count[FREE_LAST] = page
    count[PAGES_FREE] += 1


@inlined
def _resize(w: World, lane: Lane, pages: int) -> None:
    count = lane.counts
    if not w.rules[5]:
        count[PAGES_FREE] = max(0, pages - count[PAGES_USED])
        return
    while count[PAGES_USED] + count[PAGES_FREE] < pages:
        page = count[SPARE]
        if page == NEVER:
            page = count[PAGES_MADE]
            count[PAGES_MADE] += 1
        else:
            count[SPARE] = lane.after[page]
        _link_first(lane, page)
    while count[PAGES_FREE] and count[PAGES_USED] + count[PAGES_FREE] > pages:
        page = count[FREE_FIRST]
        _unlink(lane, page)
        _forget(lane, page)
        lane.after[page], count[SPARE] = count[SPARE], page


@inlined
def _take(w: World, lane: Lane, request: int, pages: int) -> None:
    """Give a request so many pages more."""
    count = lane.counts
    count[PAGES_USED] += pages
    if not w.rules[5]:
        count[PAGES_FREE] -= pages
        lane.pages[request] += pages
        return
    for _ in range(pages):
        page = count[FREE_FIRST]
        _unlink(lane, page)
        _forget(lane, page)
        lane.holders[page] = 1
        lane.held[w.first_key[request] + lane.pages[request]] = page
        lane.pages[request] += 1


@inlined
def _release(w: World, lane: Lane, request: int) -> None:
    """Take all its pages from a request."""
    count = lane.counts
    if not w.rules[5]:
        count[PAGES_USED] -= lane.pages[request]
        count[PAGES_FREE] += lane.pages[request]
    else:
        for index in range(lane.pages[request] - 1, -1, -1):
            page = lane.held[w.first_key[request] + index]
            lane.holders[page] -= 1
            if not lane.holders[page]:
                _link_last(lane, page)
                count[PAGES_USED] -= 1
    lane.pages[request] = 0


@uncounted_inner
def _key(w: World, request: int, index: int) -> int:
    while index < w.shared_pages[request]:
        request = w.begins_like[request]
    return w.first_key[request] + index


@uncounted_inner
def _hold_known(w: World, lane: Lane, request: int, known: int) -> None:
    """Let a request hold the first `known` of its pages, which others have computed."""
    for index in range(known):
        page = lane.page_of[_key(w, request, index)]
        if not lane.holders[page]:
            _unlink(lane, page)
            lane.counts[PAGES_USED] += 1
        lane.holders[page] += 1
        lane.held[w.first_key[request] + index] = page
    lane.pages[request] = known


# Requests


@inlined
def _arrive(w: World, lane: Lane) -> None:
    count = lane.counts
    while count[ARRIVED] < len(w.arrival_s) and w.arrival_s[count[ARRIVED]] <= lane.number[NOW_S]:
        request = count[ARRIVED]
        shed_s = w.arrival_s[request] + lane.number[SHED_S]
        lane.number[SHEDS_NEXT_S] = min(lane.number[SHEDS_NEXT_S], shed_s)
        lane.target[request] = w.prompt[request]
        lane.waiting[(count[WAITING_FIRST] + count[WAITING]) % len(lane.waiting)] = request
        count[WAITING] += 1
        count[ARRIVED] += 1


@inlined
def _leave(w: World, lane: Lane, place: int) -> None:
    count, request = lane.counts, lane.running[place]
    for later in range(place, count[RUNNING] - 1):
        lane.running[later] = lane.running[later + 1]
    count[RUNNING] -= 1
    lane.is_running[request] = False
    lane.starts[request] += 1
    _release(w, lane, request)


@uncounted_inner
def _cancel(lane: Lane, request: int) -> None:
    count = lane.counts
    for ahead in range(count[FORMED]):
        slot, kept = (count[FORMED_FIRST] + ahead) % len(lane.batch), 0
        for place in range(lane.batch_size[slot]):
            if lane.batch[slot, place, 0] == request:
                lane.promised[request] -= lane.batch[slot, place, 5]
                lane.number[SHEDS_NEXT_S] = -np.inf  # it may be without a token again
            else:
                for each in range(lane.batch.shape[2]):
                    lane.batch[slot, kept, each] = lane.batch[slot, place, each]
                kept += 1
        lane.batch_size[slot] = kept


@uncounted_inner
def _preempt(w: World, lane: Lane) -> None:
    count = lane.counts
    request = lane.running[count[RUNNING] - 1]
    _leave(w, lane, count[RUNNING] - 1)
    lane.target[request] = w.prompt[request] + lane.promised[request]
    lane.planned[request] = lane.attention[request] = lane.ffn[request] = 0
    count[WAITING_FIRST] = (count[WAITING_FIRST] - 1) % len(lane.waiting)
    lane.waiting[count[WAITING_FIRST]] = request
    count[WAITING] += 1
    count[PREEMPTIONS] += 1
    lane.preemptions[request] += 1


@inlined
def _shed(w: World, lane: Lane) -> None:
    """Give up what is late. Nothing is before `SHEDS_NEXT_S`, which spares the look at every request."""
    count, number, size = lane.counts, lane.number, len(lane.waiting)
    arrival_s, promised, waiting, running = w.arrival_s, lane.promised, lane.waiting, lane.running
    now_s, shed_s, next_s = number[NOW_S], number[SHED_S], np.inf
    if now_s < number[SHEDS_NEXT_S]:
        return
    kept = 0
    for place in range(count[WAITING]):
        request = waiting[(count[WAITING_FIRST] + place) % size]
        late_s = np.inf if promised[request] else arrival_s[request] + shed_s
        if now_s >= late_s:
            _give_up(w, lane, request)
        else:
            waiting[(count[WAITING_FIRST] + kept) % size] = request
            kept += 1
            next_s = min(next_s, late_s)
    count[WAITING] = kept
    place = 0
    while place < count[RUNNING]:
        request = running[place]
        late_s = np.inf if promised[request] else arrival_s[request] + shed_s
        if now_s >= late_s:
            _leave(w, lane, place)
            _cancel(lane, request)
            _give_up(w, lane, request)
        else:
            place += 1
            next_s = min(next_s, late_s)
    number[SHEDS_NEXT_S] = next_s


@uncounted_inner
def _give_up(w: World, lane: Lane, request: int) -> None:
    lane.shed_s[request] = lane.number[NOW_S]
    lane.cost[request] += w.output[request] * w.rates[2]
    lane.counts[SHED] += 1


# Scheduling


@inlined
def _pages_for(rules: IntArray, tokens: int) -> int:
    return -(-tokens // rules[2])


@inlined
def _add(w: World, lane: Lane, slot: int, request: int, tokens: int) -> None:
    size, before = w.rules[2], lane.planned[request]
    planned = before + tokens
    new_pages = _pages_for(w.rules, planned) - lane.pages[request]
    if new_pages > 0:
        _take(w, lane, request, new_pages)
    _plan(lane, slot, request, tokens)
    if w.rules[5]:
        for index in range(before // size, planned // size):
            page, key = lane.held[w.first_key[request] + index], _key(w, request, index)
            if lane.key_of[page] == NEVER:
                lane.key_of[page] = key
                if lane.page_of[key] == NEVER:
                    lane.page_of[key] = page


@inlined
def _plan(lane: Lane, slot: int, request: int, tokens: int) -> None:
    """Let a formed step compute so many tokens of a request, whose pages are there."""
    batch, place = lane.batch, lane.batch_size[slot]
    after, wanted = lane.planned[request] + tokens, lane.target[request]
    lane.planned[request] = after
    lane.promised[request] += after >= wanted
    batch[slot, place, 0] = request
    batch[slot, place, 1] = lane.starts[request]
    batch[slot, place, 2] = tokens
    batch[slot, place, 3] = after
    batch[slot, place, 4] = after > wanted
    batch[slot, place, 5] = after >= wanted
    lane.batch_size[slot] = place + 1


@inlined
def _admit(w: World, lane: Lane, budget: int) -> int:
    count = lane.counts
    request, size = lane.waiting[count[WAITING_FIRST]], w.rules[2]
    if lane.promised[request] == w.output[request]:
        return 0
    known = idle = 0
    if w.rules[5]:
        while known < (lane.target[request] - 1) // size:
            page = lane.page_of[_key(w, request, known)]
            if page == NEVER:
                break
            idle += not lane.holders[page]
            known += 1
    if _pages_for(w.rules, lane.target[request]) - known > count[PAGES_FREE] - idle:
        return 0
    count[WAITING_FIRST] = (count[WAITING_FIRST] + 1) % len(lane.waiting)
    count[WAITING] -= 1
    lane.running[count[RUNNING]] = request
    count[RUNNING] += 1
    lane.is_running[request] = True
    if w.rules[5]:
        _hold_known(w, lane, request, known)
    lane.planned[request] = known * size
    if np.isnan(lane.scheduled_s[request]):
        lane.scheduled_s[request] = lane.number[NOW_S]
    return min(lane.target[request] - lane.planned[request], budget)


@inlined
def _form(w: World, lane: Lane, slot: int) -> bool:
    """Form a step in a slot; whether there is anything in it."""
    count, (attention, ffn) = lane.counts, _held(lane)
    room = _limit(w, lane.number[NOW_S]) - _used_bytes(w, attention, ffn, 0)
    tokens = max(0, room) // _token_bytes(w, attention)
    _resize(w, lane, tokens // w.rules[2] - w.rules[3])
    lane.batch_size[slot] = 0
    budget, preempted, place, size = w.rules[0], False, 0, w.rules[2]
    while place < count[RUNNING] and budget:
        request = lane.running[place]
        place += 1
        left = lane.target[request] - lane.planned[request]
        if left <= 0:
            left = int(lane.promised[request] < w.output[request])
        new = min(left, budget)
        if not new:
            continue
        after, room = lane.planned[request] + new, size * lane.pages[request]
        if new == 1 and after <= room and not (w.rules[5] and after % size == 0):
            _plan(lane, slot, request, new)  # as most do: on a page that is there and not full yet
            budget -= new
            continue
        needed = _pages_for(w.rules, after) - lane.pages[request]
        while needed > count[PAGES_FREE] and lane.is_running[request]:
            _preempt(w, lane)
            preempted = True
        if not lane.is_running[request]:
            break
        _add(w, lane, slot, request, new)
        budget -= new
    while not preempted and budget and count[WAITING] and count[RUNNING] < w.rules[1]:
        new = _admit(w, lane, budget)
        if not new:
            break
        _add(w, lane, slot, lane.running[count[RUNNING] - 1], new)
        budget -= new
    return lane.batch_size[slot] > 0


@inlined
def _form_ahead(w: World, lane: Lane) -> None:
    if not _fits(w, lane, *_held(lane)):
        return
    count = lane.counts
    while count[FORMED] <= w.rules[4]:
        slot = (count[FORMED_FIRST] + count[FORMED]) % len(lane.batch)
        if not _form(w, lane, slot):
            return
        count[FORMED] += 1


# Steps


@inlined
def _execute(w: World, lane: Lane) -> None:
    count, number = lane.counts, lane.number
    slot = count[FORMED_FIRST]
    count[FORMED_FIRST] = (slot + 1) % len(lane.batch)
    count[FORMED] -= 1
    sequences, batch = lane.batch_size[slot], lane.batch
    tokens = read = pairs = 0
    for place in range(sequences):
        new, context = batch[slot, place, 2], batch[slot, place, 3]
        tokens += new
        if batch[slot, place, 4]:
            read += context
        else:
            pairs += new * (context - new) + new * (new + 1) // 2
    if not sequences:
        return
    attention, ffn = count[ATTENTION_DROPPED], count[FFN_DROPPED]
    weights, p = _weight_bytes(w, attention, ffn), w.profile
    share = weights / _weight_bytes(w, 0, 0)
    linear = max(weights / p[1], tokens * share / p[2])
    reading = read * _token_bytes(w, attention) / p[3]
    prefill = pairs * (1 - attention / w.sizes[4]) * p[4]
    number[NOW_S] += p[0] + linear + reading + prefill + sequences * p[5]
    lane.ended_s[0] = number[NOW_S]
    for place in range(sequences):
        request = batch[slot, place, 0]
        if lane.starts[request] == batch[slot, place, 1]:
            _compute_under(lane, request)
        if batch[slot, place, 5]:
            _charge(w, lane, request, 1)
            count[DELIVERED] += 1
            if lane.made[request] == 1:
                lane.first_s[request] = number[NOW_S]
            if lane.made[request] == w.output[request]:
                _end(w, lane, request)
    count[STEPS] += 1
    count[STEP_TOKENS] += tokens


@inlined
def _compute_under(lane: Lane, request: int) -> None:
    """Keep the most blocks that were dropped while a request's KV cache was computed."""
    count = lane.counts
    lane.attention[request] = max(lane.attention[request], count[ATTENTION_DROPPED])
    lane.ffn[request] = max(lane.ffn[request], count[FFN_DROPPED])


@inlined
def _charge(w: World, lane: Lane, request: int, steps: int) -> None:
    """Make an output token of a request as each of so many steps ends, at `ended_s`."""
    attention, lost, index = lane.attention[request], lane.ffn[request], lane.made[request]
    rates, ended_s, ceiling = w.rates, lane.ended_s, w.rates[2]
    now, then = w.nll[attention, lane.counts[FFN_DROPPED]], w.nll[attention, lost]
    harm = min(now + w.history_share[lost] * (then - now), ceiling)
    first_s = w.arrival_s[request] + rates[3] + rates[4] * w.prompt[request]
    nats, cost, on_time = lane.nats[request], lane.cost[request], lane.on_time[request]
    for step in range(steps):
        due_s = first_s + (index + step) * rates[5]
        late = min(1.0, max(0.0, ended_s[step] - due_s) / rates[6])
        nats += harm
        cost += harm + (ceiling - harm) * late
        on_time += ended_s[step] <= due_s
    lane.nats[request], lane.cost[request], lane.on_time[request] = nats, cost, on_time
    lane.made[request] = index + steps


@inlined
def _end(w: World, lane: Lane, request: int) -> None:
    """Let a request go whose last token is made."""
    lane.last_s[request] = lane.number[NOW_S]
    if lane.is_running[request]:
        place = 0
        while lane.running[place] != request:
            place += 1
        _leave(w, lane, place)
    else:
        _forget_waiting(lane, request)


@uncounted_inner
def _forget_waiting(lane: Lane, request: int) -> None:
    """Take a request out of the queue: it was preempted while its last token was on its way."""
    count, size, kept = lane.counts, len(lane.waiting), 0
    for place in range(count[WAITING]):
        each = lane.waiting[(count[WAITING_FIRST] + place) % size]
        if each != request:
            lane.waiting[(count[WAITING_FIRST] + kept) % size] = each
            kept += 1
    count[WAITING] = kept


@inlined
def _next_event_s(w: World, lane: Lane) -> float:
    now_s = lane.number[NOW_S]
    event_s = float(int(now_s) + 1)
    arrived = lane.counts[ARRIVED]
    if arrived < len(w.arrival_s) and w.arrival_s[arrived] > now_s:
        event_s = min(event_s, w.arrival_s[arrived])
    if lane.counts[LOADING] != NEVER and lane.number[READY_S] > now_s:
        event_s = min(event_s, lane.number[READY_S])
    return event_s


# Many steps together


@inlined
def _run_together(w: World, lane: Lane, until_s: float, attention: int, ffn: int) -> None:
    """Run the next steps for as long as each decodes all running sequences and nothing else happens.

    It gives what `run` gives step by step, to the bit. What a step has to look for beside its tokens is
    looked for once, up to the moment from which it may be otherwise; tokens are charged sequence by sequence.
    """
    count, number, sequences = lane.counts, lane.number, lane.counts[RUNNING]
    if not sequences or count[FORMED] != w.rules[4] or sequences > w.rules[0] or w.rules[5]:
        return
    now_s, stop_s = number[NOW_S], _unchanged_until_s(w, lane, until_s)
    if now_s >= stop_s:
        return
    free = _most_pages(w, lane) - count[PAGES_USED]
    if free < 0 or _may_admit(w, lane, free) or _moves(w, lane, attention, ffn):
        return
    most = _alike(w, lane)
    p, gone, gone_ffn = w.profile, count[ATTENTION_DROPPED], count[FFN_DROPPED]
    weights, token_bytes = _weight_bytes(w, gone, gone_ffn), _token_bytes(w, gone)
    linear = max(weights / p[1], sequences * (weights / _weight_bytes(w, 0, 0)) / p[2])
    begun, each_s, ended_s, crossing = p[0] + linear, sequences * p[5], lane.ended_s, lane.crossing
    read, steps = -sequences * w.rules[4], 0
    for place in range(sequences):
        read += lane.planned[lane.running[place]]
    while steps < most and now_s < stop_s and crossing[steps % len(crossing)] <= free:
        free -= crossing[steps % len(crossing)]
        read += sequences
        now_s += begun + read * token_bytes / p[3] + each_s
        ended_s[steps] = now_s
        steps += 1
    if steps:
        count[PAGES_USED], count[PAGES_FREE] = _most_pages(w, lane) - free, free
        count[DELIVERED] += sequences * steps
        count[STEPS] += steps
        count[STEP_TOKENS] += sequences * steps
        number[NOW_S] = now_s
        _decode(w, lane, steps)


@inlined
def _unchanged_until_s(w: World, lane: Lane, until_s: float) -> float:
    """Before when nothing arrives, comes late or has loaded, and the limit stays.

    What runs has its first token: what waits alone comes late.
    """
    count, number = lane.counts, lane.number
    stop_s = min(until_s, float(int(number[NOW_S]) + 1))
    if count[WAITING]:
        stop_s = min(stop_s, number[SHEDS_NEXT_S])
    if count[ARRIVED] < len(w.arrival_s):
        stop_s = min(stop_s, w.arrival_s[count[ARRIVED]])
    if count[LOADING] != NEVER:
        stop_s = min(stop_s, number[READY_S])
    return stop_s


@inlined
def _most_pages(w: World, lane: Lane) -> int:
    """Pages that may be used now; below 0 where not even the kept blocks fit."""
    attention, ffn = _held(lane)
    room = _limit(w, lane.number[NOW_S]) - _used_bytes(w, attention, ffn, 0)
    return room // _token_bytes(w, attention) // w.rules[2] - w.rules[3] if room >= 0 else NEVER


@inlined
def _may_admit(w: World, lane: Lane, free: int) -> bool:
    """Whether the head of the queue may find a place beside those that run, with so many pages free."""
    count = lane.counts
    if not count[WAITING] or count[RUNNING] >= w.rules[1] or count[RUNNING] >= w.rules[0]:
        return False
    return _pages_for(w.rules, lane.target[lane.waiting[count[WAITING_FIRST]]]) <= free


@inlined
def _moves(w: World, lane: Lane, attention: int, ffn: int) -> bool:
    """Whether `_move_blocks` would do something under this decision, nothing having loaded."""
    count, (held_attention, held_ffn) = lane.counts, _held(lane)
    gone, gone_ffn = count[ATTENTION_DROPPED], count[FFN_DROPPED]
    if gone < attention or gone_ffn < ffn:
        return True
    if count[LOADING] != NEVER:
        return held_attention < attention if count[LOADING] == ATTENTION else held_ffn < ffn
    return (gone > attention and _fits(w, lane, gone - 1, gone_ffn)) or (
        gone_ffn > ffn and _fits(w, lane, gone, gone_ffn - 1)
    )


@inlined
def _alike(w: World, lane: Lane) -> int:
    """How many steps may follow that decode all running sequences, as those do that are formed.

    None of them ends a sequence, but the last may make its last token a promise. `crossing` counts the
    sequences that need a page in each of them, round and round.
    """
    count, batch, batch_size, crossing = lane.counts, lane.batch, lane.batch_size, lane.crossing
    running, planned, target, promised = lane.running, lane.planned, lane.target, lane.promised
    pages, output, ahead, size = lane.pages, w.output, w.rules[4], w.rules[2]
    crossing[:] = 0
    most = len(lane.ended_s)
    for each in range(ahead):
        if batch_size[(count[FORMED_FIRST] + each) % len(batch)] != count[RUNNING]:
            return 0
    for place in range(count[RUNNING]):
        request = running[place]
        # Without steps ahead the step that promises a token makes it, and `_execute` sees the last.
        most = min(most, output[request] - promised[request] - (ahead == 0))
        if planned[request] < target[request] or most <= 0:
            return 0
        for each in range(ahead):
            slot = (count[FORMED_FIRST] + each) % len(batch)
            if batch[slot, place, 0] != request or not batch[slot, place, 4]:
                return 0
        crossing[size * pages[request] - planned[request]] += 1
    return most


@inlined
def _decode(w: World, lane: Lane, steps: int) -> None:
    """Give each running sequence a token as each of so many steps ends; those ahead move on with it."""
    count, batch, ahead = lane.counts, lane.batch, w.rules[4]
    count[FORMED_FIRST] = (count[FORMED_FIRST] + steps) % len(batch)
    for each in range(ahead):
        lane.batch_size[(count[FORMED_FIRST] + each) % len(batch)] = count[RUNNING]
    for place in range(count[RUNNING]):
        request = lane.running[place]
        lane.planned[request] += steps
        lane.promised[request] += steps
        lane.pages[request] = _pages_for(w.rules, lane.planned[request])
        _compute_under(lane, request)
        _charge(w, lane, request, steps)
        for each in range(ahead):
            slot = (count[FORMED_FIRST] + each) % len(batch)
            batch[slot, place, 0] = request
            batch[slot, place, 1] = lane.starts[request]
            batch[slot, place, 2] = batch[slot, place, 4] = batch[slot, place, 5] = 1
            batch[slot, place, 3] = lane.planned[request] - ahead + 1 + each


@inlined
def is_idle(w: World, lane: Lane) -> bool:
    """Whether every request that there is has left."""
    count = lane.counts
    return count[ARRIVED] == len(w.arrival_s) and not count[WAITING] and not count[RUNNING]


@uncounted
def run(w: World, lane: Lane, until_s: float, attention: int, ffn: int, on_fall: int) -> None:
    """Go on until then under a decision; a step that has begun by then ends."""
    number = lane.number
    while number[NOW_S] < until_s and not is_idle(w, lane):
        _run_together(w, lane, until_s, attention, ffn)
        if number[NOW_S] >= until_s:
            return
        _arrive(w, lane)
        _answer_fall(w, lane, on_fall)
        _move_blocks(w, lane, attention, ffn)
        _shed(w, lane)
        _form_ahead(w, lane)
        if lane.counts[FORMED]:
            _execute(w, lane)
        else:
            number[NOW_S] = min(_next_event_s(w, lane), until_s)
    if is_idle(w, lane) and until_s < np.inf:
        number[NOW_S] = max(number[NOW_S], until_s)


# From the reference's words


def world_of(
    requests: Requests, card: Card, profile: ServingProfile, harm: Harm, deadlines: Deadlines
) -> World:
    """What lanes share."""
    foot, size = card.footprint, profile.page_tokens
    pages = -(-(requests.prompt_tokens + requests.output_tokens) // size)
    keys = np.concatenate([[0], np.cumsum(pages)]) if profile.prefix_cache else np.empty(0)
    fixed = card.used_bytes((0, 0), 0) - card.weight_bytes((0, 0))
    whole = [
        np.ascontiguousarray(each, dtype=np.int64)
        for each in (
            requests.prompt_tokens, requests.output_tokens, requests.begins_like,
            requests.shared_pages, keys, card.limit_bytes, card.goes_next,
            [foot.attention_bytes, foot.ffn_bytes, card.block_token_bytes, fixed, foot.layers],
            [profile.step_tokens, profile.max_sequences, size, profile.reserved_pages,
             profile.lookahead, profile.prefix_cache],
        )
    ]  # fmt: skip
    prompt, output, begins_like, shared, first_key, limit, goes_next, sizes, rules = whole
    return World(
        arrival_s=np.ascontiguousarray(requests.arrival_s, dtype=np.float64),
        prompt=prompt,
        output=output,
        begins_like=begins_like,
        shared_pages=shared,
        first_key=first_key,
        limit_bytes=limit,
        goes_next=goes_next,
        nll=np.ascontiguousarray(harm.nll, dtype=np.float64),
        history_share=np.ascontiguousarray(harm.history_share, dtype=np.float64),
        sizes=sizes,
        rates=np.array(
            [card.link_bytes_per_s, card.reaction_s, harm.ceiling,
             deadlines.ttft_s, deadlines.ttft_token_s, deadlines.tpot_s, deadlines.late_s],
            dtype=np.float64,
        ),
        profile=constants(profile),
        rules=rules,
    )  # fmt: skip


def constants(profile: ServingProfile) -> FloatArray:
    """The seconds and rates of a step, as `World.profile` has them."""
    return np.array(
        [profile.base_s, profile.weight_bytes_per_s, profile.tokens_per_s,
         profile.kv_bytes_per_s, profile.pair_s, profile.sequence_s],
        dtype=np.float64,
    )  # fmt: skip


def lane_of(world: World, shed_s: float = np.inf) -> Lane:
    """A lane with all blocks in memory, at 0 s."""
    requests, (_, most, size, _, ahead, remembers) = len(world.arrival_s), world.rules.tolist()

    def integers() -> IntArray:
        return np.zeros(requests, dtype=np.int64)

    def numbers(value: float) -> FloatArray:
        return np.full(requests, value)

    count = np.zeros(COUNTS, dtype=np.int64)
    count[[LOADING, FREE_FIRST, FREE_LAST, SPARE]] = NEVER
    room = max(0, int(world.limit_bytes.max()) - int(world.sizes[3]))
    least_token = (world.sizes[4] - world.goes_next.shape[0] + 1) * world.sizes[2]
    pages = int(room // (least_token * size)) + 1 if remembers else 0
    keys = int(world.first_key[-1]) if remembers else 0
    never = [np.full(length, NEVER, dtype=np.int64) for length in (keys, keys, pages)]
    return Lane(
        number=np.array([0.0, 0.0, shed_s, np.inf]),
        counts=count,
        waiting=np.zeros(requests + 1, dtype=np.int64),
        running=np.zeros(most, dtype=np.int64),
        target=integers(), planned=integers(), promised=integers(), made=integers(),
        pages=integers(), starts=integers(), attention=integers(), ffn=integers(),
        is_running=np.zeros(requests, dtype=bool), preemptions=integers(),
        scheduled_s=numbers(np.nan), first_s=numbers(np.nan), last_s=numbers(np.nan),
        shed_s=numbers(np.nan), cost=numbers(0.0), nats=numbers(0.0), on_time=integers(),
        batch=np.zeros((ahead + 2, most, 6), dtype=np.int64),
        batch_size=np.zeros(ahead + 2, dtype=np.int64),
        ended_s=np.zeros(MOST_TOGETHER), crossing=np.zeros(size, dtype=np.int64),
        held=never[0], page_of=never[1], key_of=never[2],
        holders=np.zeros(pages, dtype=np.int64), after=np.zeros(pages, dtype=np.int64),
        before=np.zeros(pages, dtype=np.int64),
    )  # fmt: skip
