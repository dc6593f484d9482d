"""The score: each part by the table, the edges of the bands, and that more never counts less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.decisions.complexity import band_of, complexity_bp, score_parts
from palyra.events.routing import Features
from palyra.events.smart_routing import ScoreWeights, SmartRouting

RULES = SmartRouting()


@pytest.mark.parametrize(
    ("tokens", "features", "part", "expected"),
    [
        (0, Features(), "length", 0),
        (1_000, Features(), "length", 1_250),
        (2_000, Features(), "length", 2_500),
        (2_006, Features(), "length", 2_501),
        (9_000, Features(), "length", 3_750),
        (16_000, Features(), "length", 5_000),
        (1_000_000, Features(), "length", 5_000),
        (0, Features(tools=3), "tools", 450),
        (0, Features(tools=10), "tools", 1_500),
        (0, Features(tools=11), "tools", 1_500),
        (0, Features(json=1), "json", 1_000),
        (0, Features(json=2), "json", 1_500),
        (0, Features(images=1), "images", 1_000),
        (0, Features(images=9), "images", 2_000),
        (0, Features(keywords=2), "keywords", 1_000),
        (0, Features(keywords=5), "keywords", 2_500),
        (0, Features(keywords=8), "keywords", 2_500),
    ],
)
def test_each_part_is_as_the_table_says(tokens: int, features: Features, part: str, expected: int) -> None:
    """palyra-complexity-1, part by part; the other parts are nothing."""
    parts = score_parts(tokens, features, RULES)
    assert parts.pop(part) == expected
    assert part == "length" or not any(parts.values())


def test_the_whole_is_cut_to_ten_thousand() -> None:
    """Everything at once would be more."""
    assert complexity_bp(16_000, Features(tools=10, json=2, images=2, keywords=5), RULES) == 10_000


def test_weights_scale_the_parts() -> None:
    """Half of the length, no keywords, images twice."""
    rules = SmartRouting(weights=ScoreWeights(length_bp=5_000, keywords_bp=0, images_bp=20_000))
    parts = score_parts(2_000, Features(images=1, keywords=5), rules)
    assert (parts["length"], parts["keywords"], parts["images"]) == (1_250, 0, 2_000)
    features = Features(tools=2, json=2)
    designed = score_parts(0, features, RULES)
    twice = score_parts(0, features, SmartRouting(weights=ScoreWeights(tools_bp=20_000, json_bp=5_000)))
    assert (twice["tools"], twice["json"]) == (2 * designed["tools"], designed["json"] // 2)
    assert designed["tools"] > 0 < designed["json"]


@pytest.mark.parametrize(
    ("score", "band"),
    [(0, "simple"), (3_500, "simple"), (3_501, "balanced"), (7_499, "balanced"), (7_500, "premium")],
)
def test_the_edges_of_the_bands(score: int, band: str) -> None:
    """Both limits are inclusive."""
    assert band_of(score, RULES) == band


COUNTS = st.integers(0, 50)


@given(
    st.integers(0, 100_000),
    COUNTS,
    COUNTS,
    COUNTS,
    st.integers(0, 2),
    st.sampled_from(["tokens", "tools", "images", "keywords"]),
)
def test_more_never_counts_less(tokens: int, tools: int, images: int, keywords: int, json: int, more: str) -> None:
    """0 to 10,000, and monotone in everything that is counted."""
    figures = {"tokens": tokens, "tools": tools, "images": images, "keywords": keywords}

    def score() -> int:
        counts = {name: count for name, count in figures.items() if name != "tokens"}
        return complexity_bp(figures["tokens"], Features(json=json, **counts), RULES)

    before = score()
    figures[more] += 1
    assert 0 <= before <= score() <= 10_000
