"""Classes, confusions and wrong images of a handful whose figures are worked out by hand."""

import numpy as np
import pytest

from gfnet_fast.evaluation import Steps
from gfnet_fast.intervals import wilson
from gfnet_fast.outcome import (
    by_class,
    confusions,
    figures,
    matrix,
    mistake_rows,
    mistakes,
    outcome,
    worst,
)

NAMES = ["ant", "bee", "=cat", "dog"]
LABELS = [0, 0, 0, 1, 1, 3]
#       left at: 1  2  2  1  2  1
CONFIDENCES = [[0.9, 0.2, 0.3, 0.8, 0.1, 0.95], [0.1, 0.6, 0.7, 0.9, 0.5, 0.99]]
PREDICTIONS = [[0, 1, 1, 0, 1, 2], [1, 0, 1, 1, 1, 3]]


@pytest.fixture
def found():
    steps = Steps(
        np.array(CONFIDENCES, np.float32), np.array(PREDICTIONS), np.array(LABELS),
        np.zeros((1, 6, 2), np.int32), "",
    )  # fmt: skip
    return outcome(steps, [0.8, -1e8])


def test_an_image_s_answer_is_that_of_the_step_at_which_it_left(found):
    assert found.exit_steps.tolist() == [1, 2, 2, 1, 2, 1]
    assert found.predictions.tolist() == [0, 0, 1, 0, 1, 2]
    assert found.confidences.tolist() == pytest.approx([0.9, 0.6, 0.7, 0.8, 0.5, 0.95])
    assert found.right.tolist() == [True, True, False, False, True, False]


def test_classes_count_their_images_and_what_is_said_to_be_of_them(found):
    ant, bee, cat, dog = by_class(found)
    assert [tuple(one) for one in (ant, bee, cat, dog)] == [
        (0, 3, 2, 3),
        (1, 2, 1, 2),
        (2, 0, 0, 1),
        (3, 1, 0, 0),
    ]
    assert (ant.recall, ant.precision) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert ant.interval == wilson(2, 3)
    assert (cat.recall, cat.precision) == (None, 0.0)
    assert (dog.recall, dog.precision) == (0.0, None)
    assert [one.label for one in worst([ant, bee, cat, dog], 2)] == [3, 1]  # the one without images is none


def test_the_surest_to_be_bad_is_worst_and_not_the_smallest(found):
    one = by_class(found)[0]._replace(images=1, right=0)
    many = one._replace(label=9, images=50, right=5)
    assert [c.label for c in worst([one, many], 1)] == [9]


def test_confusions_and_the_matrix(found):
    assert [tuple(pair) for pair in confusions(found)] == [(0, 1, 1), (1, 0, 1), (3, 2, 1)]
    assert matrix(found, [0, 1, 2, 3]).tolist() == [
        [2, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]
    assert matrix(found, [3, 0]).tolist() == [[0, 0, 1], [0, 2, 1]]  # what is none of them is in the last
    again = found._replace(labels=np.repeat(found.labels, [1, 1, 1, 3, 1, 1]))
    again = again._replace(predictions=np.repeat(found.predictions, [1, 1, 1, 3, 1, 1]))
    assert confusions(again)[0] == (1, 0, 3)


def test_figures_of_the_whole(found):
    told = figures(found, [10.0, 30.0])
    assert told["accuracy"] == pytest.approx(50)
    assert told["interval"] == pytest.approx([100 * end for end in wilson(3, 6)])
    assert told["class_accuracy"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    assert (told["wrong"], told["missed"], told["spared"]) == (3, 2, 1)
    assert (told["mean_steps"], told["macs"]) == (1.5, 20)
    assert told["shares"] == [0.5, 0.5]
    assert told["accuracies"] == pytest.approx([100 / 3, 200 / 3])


def test_mistakes_are_told_with_the_most_confident_first(found):
    assert mistakes(found) == [5, 3, 2]
    rows = mistake_rows(found, NAMES, [10, 11, 12, 13, 14, 15], None)
    assert rows[0] == {
        "path": None, "image": 15, "truth": "dog", "prediction": "=cat", "confidence": 0.95, "exit_step": 1,
    }  # fmt: skip
    assert [row["exit_step"] for row in rows] == [1, 1, 2]


def test_nothing_wrong(found):
    right = found._replace(predictions=found.labels)
    assert (confusions(right), mistakes(right)) == ([], [])
    assert figures(right, [1, 2])["accuracies"] == [100, 100]
