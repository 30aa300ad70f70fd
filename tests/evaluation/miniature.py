"""Miniatures of the public data sets under one folder, in their publishers' layouts, with labels that are known."""

import json
import pickle

import numpy as np
from PIL import Image

from tests.data.test_voc import annotation, save_labels

SIZE = 32
"""At which the miniatures are scored."""
WIDTH, HEIGHT = 96, 64
"""Of VOC's and COCO's miniatures: three and two pixels make one."""
BOXES = {"val": [(0, 0, 24, 32), (30, 8, 36, 12)], "train": [(0, 0, 30, 30), (48, 32, 72, 64), (6, 6, 12, 12)]}
"""x0, y0, x1, y1 from 0, x1 and y1 exclusive."""
COLOURS = {"val": [(200, 40, 90), (60, 120, 30)], "train": [(10, 20, 30), (90, 80, 70), (250, 240, 10)]}
"""Photos of one colour: a filter and a resize leave it as it is."""
MASKS = {"val": [(0, 0, 48, 64), (48, 0, 72, 32)], "train": [(0, 0, 96, 32), (0, 32, 48, 64), (24, 16, 72, 48)]}
"""Of RefCOCO: halves and an eighth of the photo."""
TILT_DEG = 30
"""By which NYUv2's miniature looks down onto its planes."""


def photo(rng, width, height):
    """Smooth noise."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def share(box, width=WIDTH, height=HEIGHT):
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0) / (width * height)


def write_voc(root):
    folder, rng = root / "VOCdevkit/VOC2012", np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    lists = {}
    for split, boxes in BOXES.items():
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            name = f"2007_{split}{number}"
            lists.setdefault(split, []).append(name)
            photo(rng, WIDTH, HEIGHT).save(folder / f"JPEGImages/{name}.jpg")
            content = annotation([("boat", (x0 + 1, y0 + 1, x1, y1))], (WIDTH, HEIGHT))
            (folder / f"Annotations/{name}.xml").write_bytes(content)
            classes = np.zeros((HEIGHT, WIDTH), int)
            classes[y0:y1, x0:x1] = 4
            classes[-4:] = 255
            for third, class_id in enumerate((6, 11, 16)):  # one of every other fold
                classes[-8:-4, third * WIDTH // 3 : (third + 1) * WIDTH // 3] = class_id
            save_labels(folder / f"SegmentationClassAug/{name}.png", classes)
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(lists[split]) + "\n")
    (root / "splits/val").mkdir(parents=True)
    entries = [f"{name}__04" for names in lists.values() for name in names]
    for fold in range(4):
        lines = entries if fold == 0 else [entry.replace("04", f"{5 * fold + 1:02}") for entry in entries]
        (root / f"splits/val/fold{fold}.txt").write_text("\n".join(lines) + "\n")


def write_imagenet(root):
    for split, colours in COLOURS.items():
        (root / split / "n01").mkdir(parents=True)
        for number, colour in enumerate(colours):
            Image.new("RGB", (70, 50), colour).save(root / split / "n01" / f"{split}_{number}.JPEG", "PNG")


def nyu_depth(number):
    """(480, 640) metres: disparity is linear over the picture, as a plane's is; a hole of unknown depth in it."""
    y, x = np.mgrid[:480, :640]
    depth = 1 / (0.2 + 0.3 * y / 480 + 0.1 * (1 + number) * x / 640)
    depth = np.round(depth * 1000) / 1000
    depth[100:110, 300:310] = 0
    return depth


def write_nyu(root, dsine):
    rng = np.random.default_rng(1)
    normal = np.array([0, np.sin(np.radians(TILT_DEG)), np.cos(np.radians(TILT_DEG))])
    for split, numbers in (("test", (0, 1)), ("train", (2, 3, 4))):
        folder = root / "official_splits" / split / "kitchen"
        folder.mkdir(parents=True)
        (dsine / split).mkdir(parents=True)
        for number in numbers:
            picture = photo(rng, 640, 480)
            picture.save(folder / f"rgb_{number:05}.jpg")
            picture.save(dsine / split / f"{number:06}_img.png")
            Image.fromarray((nyu_depth(number) * 1000).round().astype(np.uint16)).save(
                folder / f"sync_depth_{number:05}.png"
            )
            levels = np.full((480, 640, 3), ((normal * [-1, 1, 1] + 1) * 127.5).round(), np.uint8)  # its x points left
            levels[:48] = 0
            Image.fromarray(levels).save(dsine / split / f"{number:06}_normal.png")
            np.save(dsine / split / f"{number:06}_intrins.npy", np.eye(3))


BORDERS = {"test": (30, 44), "train": (20, 36, 52)}
"""Columns at which BSDS500's photos change."""
STRAY = 5
"""Another column that somebody drew."""


def write_bsds(root, side=64):
    """Photos of two greys whose border all people drew, and some a line where nothing is."""
    for split, columns in BORDERS.items():
        for folder in ("images", "boundaries"):
            (root / split / folder).mkdir(parents=True)
        for number, column in enumerate(columns):
            levels = np.full((side, side), 40, np.uint8)
            levels[:, column:] = 200
            Image.fromarray(levels).convert("RGB").save(root / split / f"images/{number}.png")
            drawn = np.zeros((side, side), np.uint8)
            drawn[:, column], drawn[:, STRAY] = 255, 128
            Image.fromarray(drawn).save(root / split / f"boundaries/{number}.png")


def write_refcoco(root, name, by):
    """Photos with one object each; the split ``val`` is that of every other test split too."""
    folder, rng = root / name, np.random.default_rng(2)
    folder.mkdir(parents=True)
    (root / "train2014").mkdir(exist_ok=True)
    references, images, objects = [], [], []
    for number, (split, box) in enumerate((split, box) for split, boxes in MASKS.items() for box in boxes):
        x0, y0, x1, y1 = box
        file_name = f"COCO_train2014_{number:012}.jpg"
        photo(rng, WIDTH, HEIGHT).save(root / "train2014" / file_name)
        images.append({"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
        one = {"id": 100 + number, "image_id": number, "category_id": 18}
        objects.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [polygon]})
        said = [{"sent_id": number, "sent": f"dog {number}", "raw": f"dog {number}", "tokens": ["dog"]}]
        references.append(
            {"ref_id": number, "ann_id": 100 + number, "image_id": number, "category_id": 18, "split": split}
            | {"sentences": said, "sent_ids": [number], "file_name": file_name}
        )
    (folder / f"refs({by}).p").write_bytes(pickle.dumps(references, 2))
    content = {"images": images, "annotations": objects, "categories": [{"id": 18, "name": "dog"}]}
    (folder / "instances.json").write_text(json.dumps(content))


def write_all(root):
    """Everything that ``configs/eval`` asks for, below one folder."""
    write_voc(root / "voc")
    write_imagenet(root / "imagenet")
    write_nyu(root / "nyuv2", root / "dsine_eval/nyuv2")
    write_refcoco(root / "refer", "refcoco", "unc")
    write_bsds(root / "bsds500")
    return root
