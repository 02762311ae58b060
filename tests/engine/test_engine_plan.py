"""What is evaluated next: the budget is kept, answers go on, and prompts share."""

from hypothesis import given
from hypothesis import strategies as st

from puna.engine.plan import Need, fair_shares, plan, undivided

NEEDS = st.lists(st.builds(Need, st.integers(1, 3000), st.booleans()), max_size=64)


@given(NEEDS, st.integers(1, 2048))
def test_a_batch_keeps_the_budget_and_leaves_nothing_unused(needs: list[Need], budget: int) -> None:
    counts = plan(needs, budget)
    assert all(0 <= count <= need.tokens for count, need in zip(counts, needs, strict=True))
    assert sum(counts) <= budget
    if any(need.prefilling for need in needs):
        assert sum(counts) == min(budget, sum(need.tokens for need in needs)) or sum(counts) >= budget // 4


@given(NEEDS, st.integers(2, 2048))
def test_nothing_is_left_over_that_fits(needs: list[Need], budget: int) -> None:
    if sum(need.tokens for need in needs) <= budget // 4:
        assert plan(needs, budget) == [need.tokens for need in needs]


def test_answers_go_before_prompts() -> None:
    needs = [Need(1000, True), Need(1, False), Need(5, False), Need(1000, True)]
    assert plan(needs, 106) == [50, 1, 5, 50]


def test_prompts_get_a_quarter_in_any_case() -> None:
    assert plan([*[Need(1, False)] * 20, Need(40, True)], 16) == [*[1] * 12, *[0] * 8, 4]


def test_a_short_prompt_does_not_wait_for_long_ones() -> None:
    assert plan([Need(4000, True), Need(10, True), Need(4000, True)], 512) == [251, 10, 251]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(0, 4000))
def test_shares_are_fair(wanted: list[int], budget: int) -> None:
    shares = fair_shares(wanted, budget)
    assert sum(shares) == min(budget, sum(wanted))
    level = max(shares)
    # Who got less than another wanted no more, but for what cannot be divided.
    assert all(share >= min(want, level - 1) for share, want in zip(shares, wanted, strict=True))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1), st.integers(20, 60))
def test_what_cannot_be_divided_comes_whole_or_not_at_all(shares: list[tuple[int, int]], budget: int) -> None:
    counts = [min(count, budget) for count, _ in shares]
    found = undivided(counts, [piece for _, piece in shares], budget)
    assert sum(found) <= budget
    for new, (old, (_, piece)) in zip(found, zip(counts, shares, strict=True), strict=True):
        assert new == 0 or new >= piece
        assert new <= max(old, piece) and (old or not new)
    if any(counts):
        assert any(found)
