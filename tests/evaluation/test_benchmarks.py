"""The thesis' benchmarks on miniatures: a perfect predictor scores perfectly, a constant one what arithmetic says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lavin import metrics
from lavin.errors import InputError
from lavin.evaluation import public
from lavin.evaluation.benchmarks import read_benchmark, thesis_benchmarks
from lavin.evaluation.episodes import Score
from lavin.evaluation.predictors import Each, constant, perfect
from lavin.evaluation.runner import Runner
from lavin.metrics import perceptual
from tests.evaluation import miniature
from tests.evaluation.miniature import BORDERS, BOXES, COLOURS, HEIGHT, MASKS, SIZE, STRAY, WIDTH, share

SMALL = [f"resolution={SIZE}", "pairs=2", "queries.count=2", "seeds=[0]"]
PHOTOS = [*SMALL, "queries.names=null"]
BLACK, GREY, WHITE = -1.0, 0.0, 1.0
TEN = {
    *("pascal5i_foreground", "voc_detection", "imagenet_colorization", "imagenet_inpainting", "imagenet_deraining"),
    *("imagenet_demotionblur", "nyuv2_depth", "nyuv2_normals", "nyuv2_depth_to_image", "nyuv2_normals_to_image"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return miniature.write_all(tmp_path_factory.mktemp("data"))


def questions(data, name, *changes, part=None):
    rows = read_benchmark(name, changes).rows()
    name = f"{name}/{part}" if part else name
    return public.Questions(name, rows[name], data)


def scores(asked, answer):
    """Metric -> value of a function of the episode."""
    settings = public.settings_of(asked.benchmark, len(asked), 2, "float32")
    results = Runner(Each("model", answer), settings).evaluate(asked.row(), asked.draw)
    return {result.metric: result.value for result in results}


class Colours(torch.nn.Module):
    """A picture's mean colour, in Inception's place."""

    num_features = 3

    def forward(self, pictures):
        return pictures.float().mean((2, 3))


def psnr(error_levels, pixels=1.0):
    """Of pictures that are wrong by so much in so large a share of their pixels, mean over pictures."""
    errors = np.array([np.mean(np.square(error)) for error in error_levels])
    return float(np.mean(10 * np.log10(255**2 / (pixels * errors))))


def test_the_ten_tasks_and_the_refcoco_family_have_their_protocols():
    assert {*thesis_benchmarks()} == TEN | {
        "refcoco",
        "refcoco_plus",
        "refcocog",
        "bsds500_edges",
        "voc_detection_folds",
    }
    for name in thesis_benchmarks():
        for benchmark in read_benchmark(name).rows().values():
            assert (benchmark.resolution, benchmark.steps, benchmark.guidance) == (256, 20, 1.5)
            assert benchmark.pairs == 8 and benchmark.mask
            assert len(benchmark.seeds) == 1 if name == "voc_detection" else benchmark.seeds == [0, 1, 2]
            assert {*benchmark.published} <= {*benchmark.metrics}
    counts = {name: read_benchmark(name).queries.count for name in ("pascal5i_foreground", "nyuv2_depth")}
    assert counts == {"pascal5i_foreground": 1000, "nyuv2_depth": None}
    short, long = ((public.eval_dir() / f"lists/imagenet_val_{n}.txt").read_text().split() for n in (1000, 2500))
    assert len({*long}) == 2500 and short == long[:1000]


def test_foreground(data):
    """White everywhere: the IoU of an episode is the mask's share; two supports of three others never the query's."""
    asked = questions(data, "pascal5i_foreground", *SMALL, part="split1")
    truth = scores(asked, perfect)
    assert all(value == pytest.approx(1, abs=1e-6) for value in truth.values())
    found = scores(asked, constant(WHITE))
    parts = [share(box) for box in BOXES["val"]]
    void = 4 / HEIGHT
    assert found["mIoU"] == pytest.approx(np.mean(parts), abs=1e-6)
    assert found["mIoU without void"] == pytest.approx(np.mean(parts) / (1 - void), abs=1e-6)
    assert found["class mIoU"] == pytest.approx(np.mean(parts), abs=1e-6)  # one class, equal areas: pooled is the mean
    assert found["FB-IoU"] == pytest.approx(np.mean(parts) / 2, abs=1e-6)  # of the background nothing is found
    assert scores(asked, constant(BLACK))["mIoU"] == 0


def test_class_miou_pools_areas_where_miou_averages_episodes(data):
    """Half of the larger object is found and nothing of the smaller one."""
    asked = questions(data, "pascal5i_foreground", *SMALL, part="split1")

    def half(episode):
        clip = episode.target.clone()
        clip[:, :, : SIZE // 4] = -1
        return clip

    found = scores(asked, half)
    large, small = (share(box) for box in BOXES["val"])
    assert found["mIoU"] == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert found["class mIoU"] == pytest.approx(0.5 * large / (large + small), abs=1e-6)


def test_detection(data):
    asked = questions(data, "voc_detection", *SMALL, part="split2")
    assert asked.benchmark.seeds == [1]
    assert scores(asked, perfect) == {"mIoU": 1}
    assert scores(asked, constant(WHITE))["mIoU"] == pytest.approx(
        np.mean([share(box) for box in BOXES["val"]]), abs=1e-6
    )
    assert scores(asked, constant(BLACK))["mIoU"] == 0


def test_detection_by_folds_asks_about_five_classes(data):
    """The miniature's boats are of the first fold: it asks what the seeds' splits ask, and the others have nothing."""
    asked = questions(data, "voc_detection_folds", *SMALL, part="fold0")
    assert scores(asked, perfect) == {"mIoU": 1}
    wanted = np.mean([share(box) for box in BOXES["val"]])
    assert scores(asked, constant(WHITE))["mIoU"] == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(InputError, match="no picture of 'val' has one object of fold 2"):
        questions(data, "voc_detection_folds", *SMALL, part="fold2")


def test_edges_are_judged_by_what_people_drew(data):
    """The border alone: all of it is right, and half of what was drawn is found."""
    asked = questions(data, "bsds500_edges", "resolution=64", "pairs=2")
    borders = {f"bsds500/test/{number}": column for number, column in enumerate(BORDERS["test"])}

    def draws(*stray):
        def answer(episode):
            clip = torch.full_like(episode.target, BLACK)
            clip[..., [borders[episode.query_sample.id], *stray]] = WHITE
            return clip

        return answer

    assert scores(asked, draws(STRAY))["ODS"] == scores(asked, draws(STRAY))["OIS"] == 1
    found = scores(asked, draws())
    assert found["ODS"] == pytest.approx(2 / 3) and found["OIS"] == pytest.approx(2 / 3)
    assert scores(asked, constant(BLACK))["ODS"] == 0
    assert scores(asked, perfect)["F1 (1 px)"] == 1  # Canny's own lines


def test_pairs_are_of_the_querys_class_and_never_its_picture(data):
    asked = questions(data, "pascal5i_foreground", f"resolution={SIZE}", "pairs=4", part="split1")
    for index in range(7):
        episode = asked.draw(index)
        ids = [sample.id for sample in episode.pair_samples]
        assert len({*ids}) == 4 and episode.query_sample.id not in ids
        assert {sample.instances[0].class_name for sample in episode.pair_samples} == {"boat"}
    assert asked.draw(0).query_sample.id == asked.draw(5).query_sample.id  # entry = index mod length
    assert len(asked) == 1000


def test_contexts_are_nested_and_functions_of_seed_and_index(data):
    short = questions(data, "imagenet_deraining", *PHOTOS, "pairs=1").draw(1)
    long = questions(data, "imagenet_deraining", *PHOTOS, "pairs=3").draw(1)
    assert torch.equal(short.query.input, long.query.input) and short.definition == long.definition
    assert torch.equal(short.pairs[0].input, long.pairs[0].input)
    assert torch.equal(
        questions(data, "imagenet_deraining", *PHOTOS, "pairs=1").draw(1, seed=0).query.input, short.query.input
    )
    other = questions(data, "imagenet_deraining", *PHOTOS, "pairs=1", "seeds=[1]").draw(1)
    assert not torch.equal(short.query.input, other.query.input)


def test_colorization_is_scored_in_units_of_imagenets_standard_deviations(data):
    asked = questions(data, "imagenet_colorization", *PHOTOS)
    found = scores(asked, constant(BLACK))
    colours = np.array(COLOURS["val"]) / 255
    expected = np.mean((colours / [0.229, 0.224, 0.225]) ** 2)
    assert found["MSE (ImageNet std)"] == pytest.approx(expected, rel=1e-5)
    truth = scores(asked, perfect)
    assert truth["MSE (ImageNet std)"] == 0 and truth["PSNR"] == 100


def test_inpainting_composites_know_all_but_a_quarter(data):
    asked = questions(data, "imagenet_inpainting", *PHOTOS, "first={}", 'metrics=[PSNR,"PSNR, composite"]')
    found = scores(asked, constant(BLACK))
    colours = np.array(COLOURS["val"], float)
    assert found["PSNR"] == pytest.approx(psnr(colours), abs=1e-4)
    assert found["PSNR, composite"] == pytest.approx(psnr(colours, 1 / 4), abs=1e-4)
    assert scores(asked, perfect) == {"PSNR": 100, "PSNR, composite": 100}


@pytest.mark.parametrize("name", ["imagenet_deraining", "imagenet_demotionblur"])
def test_filters(data, name):
    """Y of BT.601's studio range, in closed form."""
    asked = questions(data, name, *PHOTOS)
    assert scores(asked, perfect) == pytest.approx({"PSNR": 100, "SSIM": 1, "PSNR (Y)": 100, "SSIM (Y)": 1})
    colours = np.array(COLOURS["val"], float)
    found = scores(asked, constant(WHITE))
    assert found["PSNR"] == pytest.approx(psnr(255 - colours), abs=1e-4)
    luma = (255 - colours) @ [65.481, 128.553, 24.966] / 255
    assert found["PSNR (Y)"] == pytest.approx(psnr(luma), abs=1e-4)
    ssim = (2 * 255 * colours + 6.5025) / (255**2 + colours**2 + 6.5025)  # without variance, C1 = (0.01 * 255)²
    assert found["SSIM"] == pytest.approx(ssim.mean(), abs=1e-4)


def nyu_truth(number):
    """Depth inside Eigen's crop that is known, (n,)."""
    depth = miniature.nyu_depth(number)[45:471, 41:601].ravel()
    return depth[(depth > 1e-3) & (depth < 10)]


def test_depth_is_aligned_in_disparity_inside_the_crop(data):
    asked = questions(data, "nyuv2_depth", *SMALL, "resolution=128", "queries.count=1")
    truth = scores(asked, perfect)
    assert truth["AbsRel"] < 0.005 and truth["delta1"] == 1
    found = scores(asked, constant(GREY))
    errors = {"AbsRel": [], "delta1": [], "MSE (m²)": [], "RMSE (m)": []}
    for number in (0,):
        depth = nyu_truth(number)
        best = 1 / np.mean(1 / depth)
        ratio = np.maximum(best / depth, depth / best)
        square = np.mean((best - depth) ** 2)
        values = (np.mean(np.abs(best - depth) / depth), np.mean(ratio < 1.25), square, np.sqrt(square))
        for name, value in zip(errors, values):
            errors[name].append(value)
    assert found == pytest.approx({name: np.mean(values) for name, values in errors.items()}, rel=1e-4)


def test_who_predicts_depth_is_aligned_in_depth(data):
    """Depth itself, drawn far bright: perfect in its own space, and wrong by a lot in the other one."""
    asked = questions(data, "nyuv2_depth", *SMALL, "resolution=128", "metrics=[AbsRel]")

    def draw_depth(episode):
        depth = episode.query_sample.depth.nan_to_num(1)
        return (2 * depth / depth.max() - 1).expand(3, -1, -1, -1)

    metric = {}
    for answers_depth in (False, True):
        predictor = Each("model", draw_depth)
        predictor.answers_depth = answers_depth
        settings = public.settings_of(asked.benchmark, 2, 2, "float32")
        (absrel,) = Runner(predictor, settings).evaluate(asked.row(), asked.draw)
        metric[answers_depth] = absrel.value, absrel.failures
    assert metric[True][0] < 0.02 and metric[True][1] == 0
    assert metric[False][0] > 0.03 and metric[False][1] == 2  # upside down: counted, not repaired


def test_normals(data):
    names = ["mean angle", "median angle", "mean angle per picture", "< 5°", "< 11.25°", "< 22.5°"]
    asked = questions(data, "nyuv2_normals", *SMALL, "queries.count=1", f"metrics={names}")
    truth = scores(asked, perfect)
    assert truth["mean angle"] < 0.6 and truth["< 11.25°"] == 1
    found = scores(asked, lambda episode: torch.tensor([0.0, 0, 1]).view(3, 1, 1, 1).expand_as(episode.target))
    tilt = miniature.TILT_DEG
    for name in names[:3]:
        assert found[name] == pytest.approx(tilt, abs=0.3)  # stored with 8 bits
    assert (found["< 22.5°"], found["< 5°"]) == (0, 0)


@pytest.mark.parametrize("name", ["nyuv2_depth_to_image", "nyuv2_normals_to_image"])
def test_generation_without_backbones_has_a_reason_and_no_number(data, name, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    changes = ["queries.options.depth=raw", "pool.options.depth=raw"]
    asked = questions(data, name, *SMALL, "queries.count=1", *changes)
    settings = public.settings_of(asked.benchmark, 1, 1, "float32")
    results = Runner(Each("model", perfect), settings).evaluate(asked.row(), asked.draw)
    assert [result.metric for result in results] == ["LPIPS (alex)", "LPIPS (vgg)", "FID", "KID"]
    for result in results:
        assert np.isnan(result.value) and "unavailable" in result.unavailable
    episode = asked.draw(0)
    assert episode.target.shape == (3, 1, SIZE, SIZE) and episode.query.input.shape == episode.target.shape
    assert len(questions(data, name, f"resolution={SIZE}", "pairs=2", *changes)) == 5  # test and train


def test_lpips_and_fid_of_the_truth_are_0_where_there_are_backbones(data, monkeypatch):
    """With a feature network made here in Inception's place; equal sets have distance 0."""

    class SmallFID(perceptual.FID):
        def __init__(self):
            super().__init__(features=Colours())

    asked = questions(data, "imagenet_inpainting", *PHOTOS, "first={}", "metrics=[FID]")
    row = asked.row()
    row = type(row)(row.name, row.task, scores=(type(row.scores[0])("FID", SmallFID),))
    settings = public.settings_of(asked.benchmark, 2, 1, "float32")
    (found,) = Runner(Each("model", perfect), settings).evaluate(row, asked.draw)
    assert found.value == pytest.approx(0, abs=1e-2)  # of colours in 8-bit levels, float32
    (found,) = Runner(Each("model", constant(BLACK)), settings).evaluate(row, asked.draw)
    colours = np.array(COLOURS["val"], float)
    expected = np.square(colours.mean(0)).sum() + np.cov(colours.T).trace()  # the black set has mean and covariance 0
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.samples == []


def test_pictures_too_small_or_too_few_for_a_metric_are_a_reason_and_no_number(data, random_squeezenet):
    class SmallFID(perceptual.FID):
        def __init__(self):
            super().__init__(features=Colours())

    asked = questions(data, "imagenet_colorization", *PHOTOS, "resolution=16")
    settings = public.settings_of(asked.benchmark, 1, 1, "float32")
    scores = (Score("LPIPS", partial(perceptual.LPIPS, "squeeze")), Score("FID", SmallFID), Score("PSNR", metrics.PSNR))
    row = replace(asked.row(), scores=scores)
    lpips, fid, psnr = Runner(Each("model", perfect), settings).evaluate(row, asked.draw)
    assert lpips.unavailable == "LPIPS needs 32 pixels a side at least; this picture is 16x16"
    assert fid.unavailable == "FID needs two pictures at least, not 1"
    for result in (lpips, fid):
        assert np.isnan(result.value) and not result.baselines and not result.samples
    assert psnr.value == 100 and psnr.unavailable is None and len(psnr.samples) == 1


def test_who_reads_the_caption_scores_lower_when_the_query_has_none(data):
    """The strip of pairs stays, that of the query is white; a model that sees only the photo would lose nothing."""
    asked = questions(data, "refcoco", "resolution=64", "pairs=2", "seeds=[0]", part="val")

    def reads(episode):
        strip = episode.query.input[:, :, -8:]
        assert all((pair.input[:, :, -8:] < 0).any() for pair in episode.pairs)
        return episode.target if (strip < 0).any() else torch.full_like(episode.target, BLACK)

    settings = public.settings_of(asked.benchmark, 2, 2, "float32")
    results = Runner(Each("model", reads), settings).evaluate(asked.row(), asked.draw)
    (found,) = (result for result in results if result.metric == "mIoU")
    assert found.value > 0.97 and found.baselines["blank_caption"] == 0
    best = max(found.baselines[name] for name in ("copy_nearest", "mean_target", "all_foreground"))
    assert found.error_reduction == pytest.approx(1 - (1 - found.value) / (1 - best))  # a control is no baseline
    results = Runner(Each("model", perfect), settings).evaluate(asked.row(), asked.draw)
    assert results[0].baselines["blank_caption"] == results[0].value


@pytest.mark.parametrize("resolution", [64])
def test_referring_is_scored_at_the_photos_size_and_without_the_strip(data, resolution):
    """A half and an eighth of the photo: all white has mIoU 5/16; half of the first found and the second not, apart."""
    changes = [f"resolution={resolution}", "pairs=2"]
    asked = questions(data, "refcoco", *changes, part="val")
    assert all(value == pytest.approx(1, abs=0.03) for value in scores(asked, perfect).values())  # 56 rows show 64
    found = scores(asked, constant(WHITE))
    large, small = (share(box, WIDTH, HEIGHT) for box in MASKS["val"])
    assert found["mIoU"] == pytest.approx((large + small) / 2, abs=1e-6)
    assert found["oIoU"] == pytest.approx((large + small) / 2, abs=1e-6)  # equal unions
    assert found["P@0.5"] == 0  # 0.5 is not above 0.5

    def left_quarter(episode):
        clip = torch.full_like(episode.target, BLACK)
        clip[:, :, :, : resolution // 4] = WHITE
        return clip

    found = scores(asked, left_quarter)
    assert found["mIoU"] == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert found["oIoU"] == pytest.approx(0.25 / (0.5 + 0.25 + 0.125), abs=1e-6)


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def test_the_list_must_be_in_the_data(data):
    with pytest.raises(InputError, match="1000 of its 1000 names are not in the data"):
        questions(data, "imagenet_colorization", f"resolution={SIZE}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["crop=center"], "did you mean 'centre'"),
        (["metric=[PSNR]"], "did you mean 'metrics'"),
        (["pairs=0"], "pairs is 0"),
        (["resolution=100"], "multiple of 16"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        read_benchmark("imagenet_deraining", changes)


def test_names_inside_a_benchmark_are_checked(data):
    asked = questions(data, "imagenet_deraining", *PHOTOS, "metrics=[PNSR]")
    with pytest.raises(InputError, match="did you mean 'PSNR'"):
        asked.row()
    asked = questions(data, "imagenet_deraining", *PHOTOS, "baselines=[input_cpy]")
    with pytest.raises(InputError, match="did you mean 'input_copy'"):
        asked.row()
    asked = questions(data, "imagenet_deraining", *PHOTOS, "definition.dropz=1")
    with pytest.raises(InputError, match="did you mean 'drops'"):
        asked.draw(0)
    asked = questions(data, "imagenet_deraining", *PHOTOS, "pairs=9")
    with pytest.raises(InputError, match="3 other pictures, not 9; take fewer pairs"):
        asked.draw(0)
    with pytest.raises(InputError, match="no such folder; nyuv2 is looked for there"):
        questions(data / "voc", "nyuv2_depth", *SMALL)
    with pytest.raises(InputError, match="did you mean 'imagenet_deraining'"):
        read_benchmark("imagenet_derainin")
