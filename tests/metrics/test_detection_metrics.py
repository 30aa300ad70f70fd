"""Average precision against a literal reading of COCO's rules, pycocotools where it is installed, and hand cases."""

import contextlib
import io

import numpy as np
import pytest
import torch

from lavin.metrics import AveragePrecision
from lavin.metrics.detection import RECALLS, THRESHOLDS
from lavin.metrics.keypoints import COCO_SIGMAS, oks

SIDE = 200
KINDS = ("boxes", "masks", "keypoints")


def boxes_at(rng, count: int) -> np.ndarray:
    corner, size = rng.random((count, 2)) * 100, rng.choice([12, 40, 110], (count, 1)) * (0.5 + rng.random((count, 2)))
    return np.concatenate([corner, np.minimum(corner + size, SIDE - 1)], 1).round()


def drawn(rng, boxes: np.ndarray) -> torch.Tensor:
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int)):
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.9
    return torch.from_numpy(masks)


def picture(kind: str, seed: int, ties: bool = False) -> tuple[dict, dict]:
    """Some objects, some of them crowds, and detections of which many are near one."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 5), rng.integers(0, 8)
    true = boxes_at(rng, n)
    parent = rng.integers(n, size=m) if n else np.zeros(m, int)
    found = (true[parent] + rng.integers(-2, 3, (m, 4))).clip(0, SIDE - 1) if n else boxes_at(rng, m)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    true_labels = np.zeros(n, int) if kind == "keypoints" else rng.integers(0, 2, n)
    found_labels = true_labels[parent] if n else np.zeros(m, int)
    scores = rng.choice([0.2, 0.5, 0.9], m) if ties else rng.random(m)
    truth = {"boxes": true, "labels": true_labels, "crowd": rng.random(n) < 0.2}
    prediction = {"boxes": found, "labels": found_labels, "scores": scores}
    if kind == "keypoints":
        joints = rng.random((n, 17, 2)) * 50 + true[:, None, :2]
        seen = rng.integers(0, 3, (n, 17, 1)) * (rng.random((n, 1, 1)) < 0.8)
        near = (
            joints[parent] + rng.normal(0, 1, (m, 17, 2)) * rng.choice([1, 5, 20], (m, 1, 1))
            if n
            else np.zeros((m, 17, 2))
        )
        truth["keypoints"] = np.concatenate([joints, seen], 2)
        truth["area"] = rng.choice([600.0, 3000.0, 12000.0], n)
        prediction["keypoints"] = np.concatenate([near, np.ones((m, 17, 1))], 2)
    sides = [{name: torch.from_numpy(values) for name, values in side.items()} for side in (prediction, truth)]
    if kind == "masks":
        sides[0]["masks"], sides[1]["masks"] = drawn(rng, found), drawn(rng, true)
    return tuple(sides)


def slow_iou(kind: str, found: dict, d: int, true: dict, g: int) -> float:
    if kind == "keypoints" and not true["keypoints"][g, :, 2].any():
        x0, y0, x1, y1 = true["boxes"][g].tolist()
        width, height, similarity = x1 - x0, y1 - y0, []
        for (x, y, _), sigma in zip(found["keypoints"][d].tolist(), COCO_SIGMAS):
            right = max(x0 - width - x, 0, x - x1 - width)
            down = max(y0 - height - y, 0, y - y1 - height)
            similarity.append(np.exp(-(right**2 + down**2) / (8 * true["area"][g].item() * sigma**2)))
        return np.mean(similarity)
    if kind == "keypoints":
        return oks(found["keypoints"][d : d + 1], true["keypoints"][g : g + 1], true["area"][g : g + 1]).item()
    if kind == "masks":
        a, b = found["masks"][d], true["masks"][g]
        shared, area, other = (a & b).sum().item(), a.sum().item(), b.sum().item()
    else:
        a, b = found["boxes"][d].tolist(), true["boxes"][g].tolist()
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared, area, other = max(width, 0) * max(height, 0), *((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return shared / (area if true["crowd"][g] else area + other - shared)


def slow_ap(kind: str, pictures) -> float:
    """Precision and recall at every score that occurs, from greedy matching in loops; sizes are not looked at."""
    values = []
    for label in (0, 1):
        for threshold in THRESHOLDS:
            hits, misses, count = [], [], 0
            for found, true in pictures:
                mine = [g for g in range(len(true["labels"])) if true["labels"][g] == label]
                void = {
                    g
                    for g in mine
                    if true["crowd"][g] or ("keypoints" in true and not true["keypoints"][g, :, 2].any())
                }
                count += len(mine) - len(void)
                taken = set()
                candidates = [d for d in range(len(found["labels"])) if found["labels"][d] == label]
                for d in sorted(candidates, key=lambda d: -found["scores"][d]):
                    near = {g: slow_iou(kind, found, d, true, g) for g in mine if g not in taken or true["crowd"][g]}
                    near = {g: iou for g, iou in near.items() if iou >= threshold}
                    real = {g: iou for g, iou in near.items() if g not in void}
                    if real:
                        taken.add(max(real, key=real.get))
                        hits.append(found["scores"][d].item())
                    elif near:
                        taken.add(max(near, key=near.get))
                    else:
                        misses.append(found["scores"][d].item())
            if not count:
                continue
            points = []
            for score in {*hits, *misses}:
                right, wrong = sum(s >= score for s in hits), sum(s >= score for s in misses)
                points.append((right / count, right / (right + wrong)))
            best = [max((precision for r, precision in points if r >= recall), default=0) for recall in RECALLS]
            values.append(np.mean(best))
    return np.mean(values)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_average_precision_equals_a_literal_loop(kind, ties):
    pictures = [picture(kind, seed, ties) for seed in range(8)]
    metric = AveragePrecision(kind)
    for pair in pictures:
        metric.update(*pair)
    wanted = slow_ap(kind, pictures)
    assert 0 < wanted < 1 and metric.compute().item() == pytest.approx(wanted, abs=1e-6)


def coco_stats(kind: str, pictures) -> np.ndarray:
    """What pycocotools' summary says."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    from pycocotools.mask import encode

    def entry(objects, i, j):
        x0, y0, x1, y1 = objects["boxes"][j].tolist()
        fields = {"image_id": i, "category_id": int(objects["labels"][j])}
        if kind == "masks":
            mask = np.asfortranarray(objects["masks"][j].numpy().astype(np.uint8))
            fields |= {"segmentation": encode(mask), "area": float(mask.sum())}
        if kind == "keypoints":
            joints = objects["keypoints"][j]
            fields |= {"keypoints": joints.flatten().tolist(), "num_keypoints": int((joints[:, 2] > 0).sum())}
        if "scores" in objects:
            fields["score"] = float(objects["scores"][j])
            return fields | ({"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "boxes" else {})
        area = objects["area"][j].item() if "area" in objects else fields.get("area", (x1 - x0) * (y1 - y0))
        return fields | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": area, "iscrowd": int(objects["crowd"][j])}

    detections, objects = (
        [entry(pair[side], i, j) for i, pair in enumerate(pictures) for j in range(len(pair[side]["labels"]))]
        for side in (0, 1)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(len(pictures))],
            "annotations": [fields | {"id": i} for i, fields in enumerate(objects, start=1)],
            "categories": [{"id": label} for label in (0, 1)],
        }
        truth.createIndex()
        name = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}[kind]
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(detections), name)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("kind", KINDS)
def test_average_precision_equals_pycocotools(kind):
    pictures = [picture(kind, seed) for seed in range(12)]
    sizes = ("small", "medium", "large") if kind != "keypoints" else ("medium", "large")
    variants = [{}, {"thresholds": (0.5,)}, {"thresholds": (0.75,)}, *({"size": size} for size in sizes)]
    for variant, wanted in zip(variants, coco_stats(kind, pictures)):
        metric = AveragePrecision(kind, **variant)
        for pair in pictures:
            metric.update(*pair)
        assert metric.compute().item() == pytest.approx(wanted, abs=1e-6), variant


def objects(*boxes, scores=None, **fields) -> dict[str, torch.Tensor]:
    made = {"boxes": torch.tensor(boxes, dtype=torch.float64).reshape(len(boxes), 4), "labels": torch.zeros(len(boxes))}
    if scores is not None:
        made["scores"] = torch.tensor(scores, dtype=torch.float64)
    return made | {name: torch.tensor(values) for name, values in fields.items()}


HERE, THERE, ELSEWHERE = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 70, 70)


def test_hand_cases():
    ap = AveragePrecision("boxes").score
    assert ap(objects(HERE, THERE, scores=[0.3, 0.9]), objects(HERE, THERE)) == 1
    assert ap(objects(scores=[]), objects(HERE)) == 0
    assert ap(objects(HERE, scores=[0.5]), objects(HERE, THERE)).item() == pytest.approx(51 / 101)  # recall 0 ... 0.5
    false_first = objects(ELSEWHERE, HERE, scores=[0.9, 0.1]), objects(HERE)
    assert ap(*false_first).item() == pytest.approx(1 / 2)
    twice = objects(HERE, HERE, scores=[0.9, 0.8]), objects(HERE)
    assert ap(*twice) == 1  # the second one is false, but comes after all there is to find
    assert ap(objects(HERE, scores=[0.5]), objects()).isnan()
    half = objects((0, 0, 10, 7.2), scores=[1.0]), objects(HERE)  # IoU 0.72: five of ten thresholds
    assert ap(*half).item() == pytest.approx(5 / 10)
    assert AveragePrecision("boxes", (0.5,)).score(*half) == 1


def test_a_tie_is_neither_lucky_nor_unlucky():
    """A true and a false detection of one score: precision is 1 / 2 whichever comes first."""
    for boxes in ((HERE, ELSEWHERE), (ELSEWHERE, HERE)):
        score = AveragePrecision("boxes").score(objects(*boxes, scores=[0.5, 0.5]), objects(HERE))
        assert score.item() == pytest.approx(1 / 2)


def test_crowds_and_wrong_sizes_excuse_detections():
    ap = AveragePrecision("boxes").score
    crowd = objects(HERE, (50, 50, 90, 90), crowd=[False, True])
    assert ap(objects(ELSEWHERE, (70, 70, 80, 80), HERE, scores=[0.9, 0.8, 0.1]), crowd) == 1
    large = (0, 0, 150, 150)
    found, truth = objects(large, HERE, scores=[0.9, 0.1]), objects(HERE, large)
    assert AveragePrecision("boxes", size="small").score(found, truth) == 1
    assert AveragePrecision("boxes", size="medium").score(found, truth).isnan()


def test_only_the_surest_hundred_count():
    boxes = [ELSEWHERE] * 100 + [HERE]
    found = objects(*boxes, scores=[0.9] * 100 + [0.1])
    assert AveragePrecision("boxes").score(found, objects(HERE)) == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="kind 'box', size 'all'; give one of boxes, masks, keypoints"):
        AveragePrecision("box")
    with pytest.raises(ValueError, match="the prediction has no masks and no scores"):
        AveragePrecision("masks").update({"labels": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="the truth has fields of different lengths"):
        AveragePrecision("boxes").update(objects(HERE, scores=[1.0]), objects(HERE, crowd=[False, False]))
    masks = [
        {"masks": torch.ones(1, 4, size).bool(), "labels": torch.zeros(1), "scores": torch.ones(1)} for size in (4, 5)
    ]
    with pytest.raises(ValueError, match=r"predicted masks are \(4, 4\) but true ones \(4, 5\)"):
        AveragePrecision("masks").update(*masks)
    with pytest.raises(ValueError, match="the prediction's scores: 1 of 1 values are NaN"):
        AveragePrecision("boxes").update(objects(HERE, scores=[np.nan]), objects(HERE))
