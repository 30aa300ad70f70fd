"""Choosing the context: distances against brute force, features against their definition, one pass over the pool."""

import itertools
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import STVAE, load_pairs
from lavin.errors import InputError
from lavin.select import STRATEGIES, EncoderFeatures, LatentFeatures, PairFolder, Selector, diverse, similar


def picture(colour, noise=0, size=(40, 24)):
    pixels = np.full((size[1], size[0], 3), colour, np.int64)
    pixels += np.random.default_rng(noise).integers(-noise, noise + 1, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


COLOURS = {"a": (220, 30, 30), "b": (30, 30, 220), "c": (200, 50, 40), "d": (30, 200, 40), "e": (40, 40, 200)}
"""Two reds, two blues and a green."""


@pytest.fixture
def folder(tmp_path):
    for number, (name, colour) in enumerate(COLOURS.items()):
        picture(colour, number).save(tmp_path / f"{name}_input.png")
        picture((128, 128, 128)).save(tmp_path / f"{name}_target.png")
    return tmp_path


@pytest.fixture(scope="module")
def stvae():
    """Random weights: its latents are arbitrary, but a function of the picture."""
    torch.manual_seed(0)
    return STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).eval()


def mean_colour(pictures):
    return np.stack([np.asarray(image).mean((0, 1)) for image in pictures])


# --- Strategies -------------------------------------------------------------------------------------------------------


def test_similar_is_the_brute_force_order_of_distances():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pool, query = rng.standard_normal((30, 5)), rng.standard_normal(5)
        by_hand = sorted(range(30), key=lambda i: sum((pool[i][k] - query[k]) ** 2 for k in range(5)))
        assert similar(pool, query, 7) == by_hand[:7]
    twins = np.zeros((4, 2))
    assert similar(twins, np.ones(2), 3) == [0, 1, 2]


def test_diverse_starts_at_the_nearest_and_covers_the_pool_within_twice_the_best():
    """Gonzalez' bound, against the best of all subsets."""

    def radius(pool, chosen):
        return max(min(np.linalg.norm(point - pool[i]) for i in chosen) for point in pool)

    rng = np.random.default_rng(1)
    for _ in range(10):
        pool, query = rng.standard_normal((10, 2)), rng.standard_normal(2)
        found = diverse(pool, query, 3)
        assert found[0] == similar(pool, query, 1)[0] and len(set(found)) == 3
        best = min(radius(pool, subset) for subset in itertools.combinations(range(10), 3))
        assert radius(pool, found) <= 2 * best + 1e-12
    corners = np.array([[0, 0], [0.1, 0], [10, 0], [10, 0.1], [0, 10]])
    assert diverse(corners, np.zeros(2), 3) == [0, 3, 4]
    assert sorted(diverse(np.zeros((4, 2)), np.zeros(2), 4)) == [0, 1, 2, 3]  # copies, each once


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_choices_are_nested_and_the_same_every_time(folder, strategy):
    pool, query = load_pairs(folder), picture(COLOURS["a"], 9)
    longest = Selector(pool, strategy, mean_colour, seed=4)(query, 5)
    assert sorted(longest) == [0, 1, 2, 3, 4]
    for pairs in range(1, 5):
        assert Selector(pool, strategy, mean_colour, seed=4)(query, pairs) == longest[:pairs]


def test_every_strategy_does_what_it_says(folder):
    pool = PairFolder(folder)
    red, blue = picture((210, 40, 40)), picture((35, 35, 210))
    assert Selector(pool, "first")(red, 2) == [0, 1]
    assert set(Selector(pool, "similar", mean_colour)(red, 2)) == {0, 2}
    assert set(Selector(pool, "similar", mean_colour)(blue, 2)) == {1, 4}
    chosen = [{pool.names[i] for i in Selector(pool, "diverse", mean_colour)(query, 3)} for query in (red, blue)]
    assert all(len(names & {"a", "c"}) == len(names & {"b", "e"}) == len(names & {"d"}) == 1 for names in chosen)
    drawn = {tuple(Selector(pool, "random", seed=seed)(red, 2)) for seed in range(30)}
    assert len(drawn) > 10 and Selector(pool, "random", seed=3)(red, 2) == Selector(pool, "random", seed=3)(blue, 2)


def test_the_pools_features_are_computed_once(folder):
    seen = []

    def counting(pictures):
        seen.append(len(pictures))
        return mean_colour(pictures)

    selector = Selector(PairFolder(folder), "similar", counting)
    assert not seen
    for _ in range(3):
        selector(picture(COLOURS["d"]), 2)
    assert seen == [5, 1, 1, 1]


def test_bad_choices_say_what_is_wrong(folder):
    pool = PairFolder(folder)
    with pytest.raises(InputError, match="unknown selection strategy 'similiar'; did you mean 'similar'"):
        Selector(pool, "similiar")
    with pytest.raises(InputError, match="strategy 'diverse' compares pictures"):
        Selector(pool, "diverse")
    with pytest.raises(InputError, match="6 pairs cannot be chosen from a pool of 5"):
        Selector(pool, "first")(picture((0, 0, 0)), 6)
    with pytest.raises(InputError, match="NaN or infinite"):
        Selector(pool, "similar", lambda pictures: np.full((len(pictures), 2), np.nan))(picture((0, 0, 0)), 1)


# --- The pool and its features ----------------------------------------------------------------------------------------


def test_a_folder_is_read_pair_by_pair(folder):
    pool, pairs = PairFolder(folder), load_pairs(folder)
    assert pool.names == pairs.names and len(pool) == 5
    for found, truth in zip(pool[3], pairs[3], strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(truth))
    (folder / "b_input.png").write_bytes(b"no picture")
    pool = PairFolder(folder)  # nobody asked for b yet
    assert pool[0]
    with pytest.raises(InputError, match=r"b_input\.png: not an image"):
        pool[1]


def test_latent_features_are_the_latents_mean(stvae):
    images = [picture((200, 50, 90), 40, (64, 32)), picture((20, 90, 50), 40, (64, 32))]
    found = LatentFeatures(stvae, 32)(images)
    assert found.shape == (2, 4)
    for image, feature in zip(images, found, strict=True):
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
        square = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
        with torch.no_grad():
            mean = stvae.encode(square.float()[:, :, None] / 127.5 - 1).latent_dist.mean
        truth = (mean - torch.as_tensor(stvae.config.shift)) * torch.as_tensor(stvae.config.scale)
        np.testing.assert_allclose(feature, truth.mean((0, 2, 3, 4)).numpy(), atol=1e-5)
    alone = LatentFeatures(stvae, 32)(images[1:])[0]
    np.testing.assert_allclose(alone, found[1], atol=1e-6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Tiny encoders of random weights in the format of the hub; BERT's is none of pictures."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=16, **size))
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**size, "vocab_size": 10, "max_position_embeddings": 8},
            vision_config={**size, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    )
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=10, **size))
    resnet = transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )
    models = {"vit": vit, "clip": clip, "bert": bert, "resnet": resnet}
    for name, model in models.items():
        model.save_pretrained(root / name)
    square = {"height": 32, "width": 32}
    for name in ("vit", "bert", "resnet"):
        transformers.ViTImageProcessor(size=square).save_pretrained(root / name)
    transformers.CLIPImageProcessor(size=square, crop_size=square).save_pretrained(root / "clip")
    return {name: (root / name, model.eval()) for name, model in models.items()}


def normalised(image, mean, std):
    """(1, 3, 32, 32) of a 32x32 picture, as a processor that only normalises makes it."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_encoder_features_are_the_mean_of_the_last_hidden_state(encoder, name):
    """Over a transformer's tokens, over a convolutional network's places."""
    folder, model = encoder[name]
    images = [picture((200, 50, 90), 60, (32, 32)), picture((20, 90, 50), 60, (32, 32))]
    found = EncoderFeatures(folder)(images)
    for image, feature in zip(images, found, strict=True):
        with torch.no_grad():
            hidden = model(normalised(image, [0.5] * 3, [0.5] * 3)).last_hidden_state
        truth = hidden[0].mean(0) if name == "vit" else hidden[0].mean((1, 2))
        np.testing.assert_allclose(feature, (truth / truth.norm()).numpy(), atol=1e-5)


def test_encoders_trained_to_compare_give_their_embedding(encoder):
    folder, model = encoder["clip"]
    image = picture((200, 50, 90), 60, (32, 32))
    found = EncoderFeatures(folder)([image])
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    with torch.no_grad():
        truth = model.visual_projection(model.vision_model(normalised(image, mean, std)).pooler_output)[0]
    assert found.shape == (1, 8)
    np.testing.assert_allclose(found[0], (truth / truth.norm()).numpy(), atol=1e-5)


def test_pictures_of_any_kind_have_the_same_features(encoder):
    features = EncoderFeatures(encoder["vit"][0])
    image = picture((200, 50, 90), 60)
    array = np.asarray(image)
    tensor = torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).float()
    found = features([image, array, array / 255, tensor])
    np.testing.assert_allclose(found, np.repeat(found[:1], 4, 0), atol=1e-6)


def test_encoders_that_cannot_be_used_say_why(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"encoder '.*nothing' cannot be loaded; a hub name or a folder"):
        EncoderFeatures(tmp_path / "nothing")
    with pytest.raises(InputError, match="reads input_ids; an image encoder is needed"):
        EncoderFeatures(encoder["bert"][0])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs the package transformers: pip install"):
        EncoderFeatures(encoder["vit"][0])
