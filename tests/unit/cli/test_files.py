from pathlib import Path

import pytest

from atelier.cli import files
from atelier.cli.problems import ProblemError
from atelier.v1 import generation_pb2

ID = "0199c3a2-7c11-7a30-9b1e-0123456789ab"


def generation(count: int, content_type: str = "image/png") -> generation_pb2.Generation:
    results = [
        generation_pb2.Result(index=index, content_type=content_type) for index in range(count)
    ]
    return generation_pb2.Generation(id=ID, results=results)


def test_a_folder_gets_names_that_tell_the_prompt(tmp_path: Path) -> None:
    assert files.paths(tmp_path, "A red circle!", generation(1)) == [
        tmp_path / "a-red-circle-456789ab.png"
    ]
    assert files.paths(tmp_path / "new", "x", generation(2, "image/webp")) == [
        tmp_path / "new" / "x-456789ab-0.webp",
        tmp_path / "new" / "x-456789ab-1.webp",
    ]


def test_a_file_is_that_file(tmp_path: Path) -> None:
    out = tmp_path / "here.png"
    assert files.paths(out, "x", generation(1)) == [out]
    assert files.paths(out, "x", generation(2)) == [
        tmp_path / "here-0.png",
        tmp_path / "here-1.png",
    ]


@pytest.mark.parametrize(
    ("name", "made", "proposed"),
    [
        ("a.png", "image/jpeg", "a.jpg"),
        ("a.mp4", "video/webm", "a.webm"),
        ("a.JPEG", "image/png", "a.png"),
    ],
)
def test_no_file_is_called_what_it_is_not(
    tmp_path: Path, name: str, made: str, proposed: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        files.paths(tmp_path / name, "x", generation(1, made))
    assert made in refused.value.lines[0] and str(tmp_path / name) in refused.value.lines[0]
    assert refused.value.lines[1] == f"try --out {tmp_path / proposed}"


@pytest.mark.parametrize(
    ("name", "made"),
    [("a.jpeg", "image/jpeg"), ("a.JPG", "image/jpeg"), ("a.v2", "image/png")],
)
def test_other_spellings_and_names_of_no_format_are_kept(
    tmp_path: Path, name: str, made: str
) -> None:
    assert files.paths(tmp_path / name, "x", generation(1, made)) == [tmp_path / name]


def test_what_is_withheld_stands_in_nobody_s_way(tmp_path: Path) -> None:
    made = generation(2, "image/webp")
    made.results[0].content_type, made.results[0].withheld = "", True
    assert len(files.paths(tmp_path / "a.webp", "x", made)) == 2


def test_a_small_copy_lies_beside(tmp_path: Path) -> None:
    result = generation_pb2.Result(thumbnail_key="results/local/g/1/0.small.jpg")
    assert files.small_path(tmp_path / "a.mp4", result) == tmp_path / "a.small.jpg"


@pytest.mark.parametrize(
    ("out", "format_"), [("a.png", "png"), ("a.jpg", "jpeg"), ("a.JPEG", "jpeg"), ("a.xyz", "")]
)
def test_a_name_asks_for_its_format(out: str, format_: str) -> None:
    assert files.format_of(Path(out)) == format_
    for asked in ("png", "jpeg", "jpg", "JPG"):
        same = not format_ or asked.lower().replace("jpg", "jpeg") == format_
        if same:
            files.check_format(asked, Path(out))
            continue
        with pytest.raises(ProblemError, match=f"--format {asked} and --out {out}"):
            files.check_format(asked, Path(out))


@pytest.mark.parametrize("name", ["a.gif", "a.TIFF", "a.mov"])
def test_nothing_is_drawn_for_a_name_that_would_lie(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="nothing is made so"):
        files.make_folder(tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()
    (tmp_path / name).mkdir()
    files.make_folder(tmp_path / name)  # a folder may be called as it likes


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("!!!", "picture"),
        ("x" * 99, "x" * 40),
        ("红", "picture"),
    ],
)
def test_a_prompt_never_leaves_its_folder(prompt: str, slug: str) -> None:
    assert files.slug(prompt) == slug


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "under", tmp_path / "file" / "under" / "it.png"):
        with pytest.raises(ProblemError, match="cannot write to"):
            files.make_folder(out)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "new" / "it.png")
    files.write(tmp_path / "new" / "it.png", b"whole")
    assert (tmp_path / "new" / "it.png").read_bytes() == b"whole"
    (tmp_path / "taken").mkdir()
    with pytest.raises(ProblemError, match="Is a directory"):
        files.write(tmp_path / "taken", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]
