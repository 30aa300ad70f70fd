"""Miniatures of VOC 2012 and of PASCAL-5i's lists; what samples should be is drawn, not read."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from lavin.data.mixture import draw_context
from lavin.data.public import open_dataset
from lavin.data.voc import CLASSES
from lavin.errors import InputError
from lavin.tasks.regions import ForegroundDefinition

WIDTH, HEIGHT = 50, 40
OBJECTS = {
    "2007_000033": [("aeroplane", (11, 6, 20, 15))],
    "2007_000061": [("boat", (1, 1, 50, 40))],
    "2007_000129": [("bicycle", (3, 4, 9, 12)), ("person", (20, 10, 30, 38))],
    "2008_000001": [("cat", (5, 5, 5, 5))],
}
"""Name -> objects with corners as the files have them: from 1, both ends inside."""


def palette():
    return [level for index in range(256) for level in (index, 255 - index, index // 2)]


def save_labels(path, levels):
    """A picture with a palette, as VOC's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(levels.astype(np.uint8), "P")
    image.putpalette(palette())
    image.save(path)


def annotation(objects, size=(WIDTH, HEIGHT)):
    root = ElementTree.Element("annotation")
    sides = ElementTree.SubElement(root, "size")
    for side, length in zip(("width", "height"), size):
        ElementTree.SubElement(sides, side).text = str(length)
    for name, corners in objects:
        one = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(one, "name").text = name
        ElementTree.SubElement(one, "difficult").text = "1"
        box = ElementTree.SubElement(one, "bndbox")
        for side, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners):
            ElementTree.SubElement(box, side).text = str(corner)
        part = ElementTree.SubElement(one, "part")
        ElementTree.SubElement(part, "name").text = "head"
    return ElementTree.tostring(root)


def drawn(objects):
    """Class and object of every pixel, with a rim of void around each object."""
    classes, numbers = np.zeros((HEIGHT, WIDTH), int), np.zeros((HEIGHT, WIDTH), int)
    for number, (name, (x0, y0, x1, y1)) in enumerate(objects, 1):
        for levels, value in ((classes, CLASSES.index(name) + 1), (numbers, number)):
            levels[max(y0 - 2, 0) : y1 + 1, max(x0 - 2, 0) : x1 + 1] = 255
            levels[y0 - 1 : y1, x0 - 1 : x1] = value
    return classes, numbers


def write_voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for number, (name, objects) in enumerate(OBJECTS.items()):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 90, 90)).save(folder / f"JPEGImages/{name}.jpg")
        (folder / f"Annotations/{name}.xml").write_bytes(annotation(objects))
        classes, numbers = drawn(objects)
        save_labels(folder / f"SegmentationClass/{name}.png", classes)
        save_labels(folder / f"SegmentationObject/{name}.png", numbers)
        if number < 3:  # the SBD masks of the miniature lack one
            save_labels(folder / f"SegmentationClassAug/{name}.png", classes)
    for kind, names in (("Main", list(OBJECTS)), ("Segmentation", list(OBJECTS)[:3])):
        (folder / f"ImageSets/{kind}/val.txt").write_text("\n".join(names) + "\n")
    lists = root / "splits" / "pascal" / "val"
    lists.mkdir(parents=True)
    (lists / "fold0.txt").write_text("2007_000033__01\n2007_000061__04\n2007_000129__02\n")
    (lists / "fold2.txt").write_text("2007_000129__15\n")
    return root


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path)


def folder_of(root):
    return root / "VOCdevkit" / "VOC2012"


# --- VOC 2012 ---------------------------------------------------------------------------------------------------------


def test_boxes_count_from_0_and_end_behind_their_last_pixel(voc):
    data = open_dataset("voc2012", voc)
    assert [sample.id.split("/")[-1] for sample in data] == list(OBJECTS)
    for sample, objects in zip(data, OBJECTS.values()):
        assert sample.size == (1, HEIGHT, WIDTH) and sample.clip.dtype == torch.uint8
        assert [one.class_name for one in sample.instances] == [name for name, _ in objects]
        for one, (name, (x0, y0, x1, y1)) in zip(sample.instances, objects):
            assert one.box.tolist() == [[x0 - 1, y0 - 1, x1, y1]]
            assert one.class_id == CLASSES.index(name) and not one.crowd
            assert one.mask.sum() == (x1 - x0 + 1) * (y1 - y0 + 1) and one.mask[0, y0 - 1, x0 - 1]


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_any_of_the_folders(voc, root):
    assert len(open_dataset("voc2012", voc / root)) == 4


@pytest.mark.parametrize(("share", "names"), [(0.2, ["2007_000033", "2008_000001"]), (0.04, ["2008_000001"])])
def test_pictures_with_a_single_small_object(voc, share, names):
    """The aeroplane covers 10 x 10 of 50 x 40 pixels, 5 %; the boat all of its picture."""
    data = open_dataset("voc2012", voc, single_below=share)
    assert data.names == names
    assert [data.class_of(index) for index in range(len(data))] == [OBJECTS[name][0][0] for name in names]


def test_segments_are_classes_and_objects_without_their_rims(voc):
    data = open_dataset("voc2012", voc, labels="segments")
    assert data.names == list(OBJECTS)[:3] and data.vocabulary.classes[20] == "background"
    for sample, objects in zip(data, OBJECTS.values()):
        classes, numbers = drawn(objects)
        expected = np.where(classes == 0, 20, np.where(classes == 255, 255, classes - 1))
        assert np.array_equal(sample.semantic[0].numpy(), expected)
        assert [one.class_name for one in sample.instances] == [name for name, _ in objects]
        for number, one in enumerate(sample.instances, 1):
            assert np.array_equal(one.mask[0].numpy(), numbers == number)
            y, x = np.nonzero(numbers == number)
            assert one.box.tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<annotation><size>", "cannot be read as a VOC annotation"),
        (b"<annotation/>", "cannot be read as a VOC annotation"),
        (annotation([("dragon", (1, 1, 5, 5))]), "class 'dragon' is none of VOC's 20"),
        (annotation([("cat", (0, 1, 5, 5))]), "box 0 1 5 5 is not inside 1 to 50 x 40"),
        (annotation([("cat", (7, 1, 5, 5))]), "box 7 1 5 5"),
        (annotation([("cat", (1, 1, 5, 41))]), "box 1 1 5 41"),
        (annotation([("cat", (1, 1, 5, 5))], (WIDTH + 1, HEIGHT)), "says 51x40 but its picture is 50x40"),
    ],
)
def test_strange_annotations_are_named(voc, content, message):
    path = folder_of(voc) / "Annotations/2007_000061.xml"
    path.write_bytes(content)
    data = open_dataset("voc2012", voc)
    assert data[0].instances
    with pytest.raises(InputError, match=rf"2007_000061\.xml: .*{message}|2007_000061\.xml: {message}"):
        data[1]


def test_what_is_missing_is_named(voc):
    folder = folder_of(voc)
    with pytest.raises(InputError, match=r"no list .*ImageSets/Main/train\.txt; voc2012 needs \[VOCdevkit/\]VOC2012"):
        open_dataset("voc2012", voc, "train")
    (folder / "JPEGImages/2007_000129.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the files listed are missing, the first is .*2007_000129\.jpg"):
        open_dataset("voc2012", voc)
    assert len(open_dataset("voc2012", voc, complete=False).missing()) == 1
    with pytest.raises(InputError, match="labels is 'masks'"):
        open_dataset("voc2012", voc, labels="masks")
    with pytest.raises(InputError, match=r"no picture of 'val' has one object that covers less than 0\.0001"):
        open_dataset("voc2012", voc, single_below=0.0001, complete=False)


# --- PASCAL-5i --------------------------------------------------------------------------------------------------------


def test_an_entry_is_all_of_its_class(voc):
    data = open_dataset("pascal5i", voc, fold=0)
    assert [data.class_of(index) for index in range(3)] == ["aeroplane", "boat", "bicycle"]
    for sample, (name, class_id) in zip(data, [("2007_000033", 0), ("2007_000061", 3), ("2007_000129", 1)]):
        assert sample.id == f"pascal5i/val/fold0/{name}__{class_id + 1:02}"
        (one,) = sample.instances
        classes, _ = drawn(OBJECTS[name])
        assert one.class_id == class_id and one.crowd
        assert np.array_equal(one.mask[0].numpy(), classes == class_id + 1)
        assert np.array_equal(sample.semantic[0].numpy() == 255, classes == 255)
    (person,) = open_dataset("pascal5i", voc, fold=2)[0].instances
    assert person.class_name == "person"
    assert open_dataset("pascal5i", voc).expected() == 346


def test_foreground_contexts_can_be_drawn_from_entries(voc):
    """Two entries of one class: the one is the pair of the other."""
    folder = folder_of(voc)
    (voc / "splits/pascal/val/fold0.txt").write_text("2007_000033__01\n2007_000129__01\n")
    save_labels(folder / "SegmentationClassAug/2007_000129.png", drawn(OBJECTS["2007_000033"])[0])
    data = open_dataset("pascal5i", voc)
    definition = ForegroundDefinition("aeroplane")
    episode = draw_context(data, "foreground", 1, np.random.default_rng(0), evaluation=True, definition=definition)
    assert {episode.query_sample.id, episode.pair_samples[0].id} == {sample.id for sample in data}
    assert episode.truth.sum() == 100


def test_lists_may_lie_elsewhere(voc, tmp_path):
    (tmp_path / "splits").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no list val/fold0\.txt below splits/; give lists=DIR"):
        open_dataset("pascal5i", voc)
    assert len(open_dataset("pascal5i", voc, lists=tmp_path / "elsewhere" / "pascal")) == 3
    with pytest.raises(InputError, match=r"no list val/fold1\.txt below .*elsewhere"):
        open_dataset("pascal5i", voc, fold=1, lists=tmp_path / "elsewhere" / "pascal")


@pytest.mark.parametrize("line", ["2007_000033__06", "2007_000033__00", "2007_000033", "2007_000033__x"])
def test_entries_of_another_fold_are_refused(voc, line):
    (voc / "splits/pascal/val/fold0.txt").write_text(f"2007_000033__01\n{line}\n")
    with pytest.raises(InputError, match=rf"fold0\.txt: entry 2 is '{line}'; .* class 1 to 5"):
        open_dataset("pascal5i", voc)


@pytest.mark.parametrize("fold", range(4))
def test_each_fold_has_its_five_classes(voc, fold):
    lists = voc / "splits/pascal/val"
    wanted = range(5 * fold + 1, 5 * fold + 6)
    (lists / f"fold{fold}.txt").write_text("".join(f"2007_000033__{number:02}\n" for number in wanted))
    data = open_dataset("pascal5i", voc, fold=fold)
    assert [data.class_of(index) for index in range(5)] == list(CLASSES[5 * fold : 5 * fold + 5])


def test_a_list_that_contradicts_the_masks_is_found(voc):
    """As when classes are counted from 0."""
    (voc / "splits/pascal/val/fold0.txt").write_text("2007_000033__02\n")
    with pytest.raises(InputError, match=r"2007_000033\.png: no pixel of class 2 \(bicycle\)"):
        open_dataset("pascal5i", voc)[0]


def test_strange_masks_are_named(voc):
    folder = folder_of(voc) / "SegmentationClassAug"
    save_labels(folder / "2007_000033.png", np.full((HEIGHT, WIDTH), 21))
    save_labels(folder / "2007_000061.png", np.ones((HEIGHT, WIDTH - 1)))
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "2007_000129.png")
    data = open_dataset("pascal5i", voc)
    messages = [r"class 21; 0 \(background\) to 20", "is 49x40 but its picture is 50x40", "one channel"]
    for index, message in enumerate(messages):
        with pytest.raises(InputError, match=message):
            data[index]
    with pytest.raises(InputError, match="fold is 4"):
        open_dataset("pascal5i", voc, fold=4)
