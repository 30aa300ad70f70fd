"""Names of tasks, and what a wrong one is answered."""

import pytest

from lavin.tasks import ALIASES, REGISTRY, get_task


def test_the_long_names_mean_the_registered_tasks():
    assert get_task("depth_estimation") is get_task("depth") is REGISTRY["depth"]
    assert {get_task(name).name for name in ALIASES} <= set(REGISTRY)
    assert not set(ALIASES) & set(REGISTRY)


def test_every_task_of_the_thesis_is_registered():
    pictures = (
        "single_object_detection instance_segmentation panoptic_segmentation semantic_segmentation "
        "foreground_segmentation referring_segmentation pose_estimation pose_to_image_generation depth_estimation "
        "depth_to_image_generation surface_normal_estimation normal_to_image_generation edge_detection inpainting "
        "colorization de_glass_blur de_motion_blur de_raining"
    )
    clips = (
        "frame_prediction video_depth_estimation video_surface_normal_estimation video_optical_flow_estimation "
        "video_instance_segmentation depth_to_video_generation normal_to_video_generation"
    )
    for names, are_clips in ((pictures, False), (clips, True)):
        tasks = [get_task(name) for name in names.split()]
        assert len(set(tasks)) == len(names.split()) and {task.clips for task in tasks} == {are_clips}


@pytest.mark.parametrize(
    "typed, meant", [("dept", "depth"), ("edge", "edges"), ("normal_estimatoin", "normals"), ("semantics", "semantic")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ValueError, match=f"unknown task '{typed}'; did you mean '{meant}'\\? registered: .*inpainting"):
        get_task(typed)


def test_a_name_like_no_other_lists_what_there_is():
    with pytest.raises(ValueError, match="unknown task 'qqqq'; registered: colorization, "):
        get_task("qqqq")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_task_says_what_it_is_in_one_line(name):
    task = REGISTRY[name]
    assert task.name == name and 10 < len(task.description) < 100 and "\n" not in task.description
    assert isinstance(task.metric().higher_is_better, bool) and task.metric_name
