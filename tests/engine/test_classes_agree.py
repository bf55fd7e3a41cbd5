"""Labels are compared by number: data with other classes, or in another order, are refused before anything runs."""

import dataclasses

import enginelib
import pytest
from spendflops_plugins.accuracy import Accuracy
from spendflops_plugins.detection.coco_ap import CocoAP
from spendflops_plugins.knn import KNN
from spendflops_plugins.supervised import Supervised

from spendflops.contracts import errors
from spendflops.engine.build import build
from spendflops.engine.recipe import Evaluation
from spendflops.testing.samples import KitData


def data(*classes):
    made = KitData()
    made.info = dataclasses.replace(made.info, classes=classes)
    return made


NAMES = KitData().info.classes


@pytest.mark.parametrize(
    ("classes", "said"), [(NAMES[:-1], NAMES[-1]), (tuple(reversed(NAMES)), "order"), ((*NAMES, "extra"), "extra")]
)
def test_roles_with_other_classes_are_refused(classes, said):
    roles = {"bank": (data(*NAMES), "train"), "query": (data(*classes), "test")}
    with pytest.raises(errors.DataError, match="different classes") as caught:
        build(enginelib.recipe(evaluations=(Evaluation(evaluator=KNN(k=3), data=roles),)))
    assert said in caught.value.why


def test_a_classifier_is_scored_on_the_classes_that_it_was_trained_on():
    def scored(*classes):
        evaluation = Evaluation(evaluator=Accuracy(), data={"eval": (data(*classes), "test")})
        return build(enginelib.recipe(enginelib.stage("supervised"), evaluations=(evaluation,)))

    assert scored(*NAMES).predictions
    with pytest.raises(errors.DataError, match="stage 'supervised'"):
        scored(*NAMES[:-1])


class Detector(Supervised):
    outputs = (*Supervised.outputs, "boxes", "box_scores", "box_labels")


def test_a_detector_is_scored_on_the_classes_of_boxes_that_it_was_trained_on():
    def scored(**info):
        other = KitData()
        other.info = dataclasses.replace(other.info, **info)
        evaluation = Evaluation(evaluator=CocoAP(), data={"eval": (other, "test")})
        return build(enginelib.recipe(enginelib.stage("supervised", objective=Detector), evaluations=(evaluation,)))

    # Classes of images are no matter here, but where boxes have no names of their own.
    assert scored(classes=NAMES[:-1]).predictions and scored(box_classes=()).predictions
    with pytest.raises(errors.DataError, match="stage 'detector'"):
        scored(box_classes=NAMES[:-1])
    with pytest.raises(errors.DataError, match="stage 'detector'"):
        scored(box_classes=(), classes=NAMES[:-1])
