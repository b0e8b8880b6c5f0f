import math
import random
import sys

from lowrung.search import importance

RATE = {"train.learning_rate": (1e-5, 1e-2, True)}


def points(n=40, seed=0):
    draw = random.Random(seed)
    return [
        {
            "lora.r": draw.choice(["4", "8", "16"]),
            "train.learning_rate": str(10 ** draw.uniform(-5, -2)),
            "lora": draw.choice(["default", "dora"]),
        }
        for _ in range(n)
    ]


def loss(point):
    return abs(math.log10(float(point["train.learning_rate"])) + 3.5)


def test_the_axis_that_decides_has_the_largest_share():
    tried = points()
    found = importance.of(tried, [loss(point) for point in tried], intervals=RATE)
    assert next(iter(found)) == "train.learning_rate"
    assert found["train.learning_rate"] > 0.6
    assert math.isclose(sum(found.values()), 1)


def test_what_is_maximised_counts_the_other_way():
    tried = points()
    values = [loss(point) for point in tried]
    down = importance.of(tried, values, intervals=RATE)
    up = importance.of(tried, [-value for value in values], is_maximised=True, intervals=RATE)
    assert down == up


def test_a_category_can_decide():
    tried = points()
    found = importance.of(tried, [2.0 + (point["lora"] == "dora") for point in tried], intervals=RATE)
    assert next(iter(found)) == "lora"


def test_little_says_nothing():
    tried = points(importance.LEAST - 1)
    assert importance.of(tried, [loss(point) for point in tried]) == {}
    assert importance.of([], []) == {}
    assert importance.of([{"lora.r": "8"}] * 20, [float(i) for i in range(20)]) == {}
    assert importance.of(points(), [math.nan] * 40) == {}
    assert importance.of(points(), [1.0] * 40, intervals=RATE) == {}


def test_values_that_are_not_finite_do_not_count():
    tried = points()
    values = [loss(point) for point in tried]
    more = importance.of([*tried, *tried[:2]], [*values, math.nan, math.inf], intervals=RATE)
    assert more == importance.of(tried, values, intervals=RATE)


def test_a_key_that_some_points_lack_and_a_value_outside_its_interval():
    tried = [
        {key: text for key, text in point.items() if key != "lora" or place % 2} for place, point in enumerate(points())
    ]
    tried[0]["train.learning_rate"] = "0.5"
    found = importance.of(tried, [loss(point) for point in tried], intervals=RATE)
    assert set(found) == {"lora.r", "train.learning_rate", "lora"}


def test_of_few_trials_nothing_is_said_or_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.importance", None)  # to import it raises
    few = points(importance.LEAST - 1)
    assert importance.of(few, [loss(point) for point in few], intervals=RATE) == {}
