"""GLUE's files and metrics."""

import numpy as np
import pytest
import scipy.stats

from transformer.glue import METRICS, TASKS, f1, pearson, read_tsv, spearman, task_of

# Two lines of each task's files, as GLUE distributes them, and what is in the first.
FILES = {
    "CoLA": ("gj04\t1\t\tIt sat.\ngj04\t0\t*\tSat it was.\n", ("It sat.",), [1, 0]),
    "SST-2": ("sentence\tlabel\na good film \t1\nbad \t0\n", ("a good film ",), [1, 0]),
    "MRPC": (
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tIt "sat\tIt was\n0\t3\t4\tb\tc\n',
        ('It "sat', "It was"),
        [1, 0],
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tn\tf\t2012\t1\tx\ty\tA cat.\tA dog.\t2.500\n1\tn\tf\t2012\t1\tx\ty\ta\tb\t5.000\n",
        ("A cat.", "A dog."),
        [2.5, 5.0],
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t1\t2\tIs it?\tWas it?\t0\n2\t3\t4\tc\td\t1\n",
        ("Is it?", "Was it?"),
        [0, 1],
    ),
    "MNLI": (
        "index\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t(a)\tIt sat.\tIt was.\tneutral\tneutral\n1\t(b)\tb\tc\tneutral\tentailment\n",
        ("It sat.", "It was."),
        [2, 1],
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel\n0\tIs it?\tIt is.\tentailment\n1\ta\tb\tnot_entailment\n",
        ("Is it?", "It is."),
        [0, 1],
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel\r\n0\tIt is.\tIt was.\tnot_entailment\r\n1\ta\tb\tentailment\r\n",
        ("It is.", "It was."),
        [1, 0],
    ),
    "WNLI": (
        "index\tsentence1\tsentence2\tlabel\n0\tIt is.\tIt was.\t1\n1\ta\tb\t0\n",
        ("It is.", "It was."),
        [1, 0],
    ),
}


def test_every_task_has_its_files():
    assert set(FILES) == set(TASKS)


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_read(name, tmp_path):
    text, first, labels = FILES[name]
    path = tmp_path / "train.tsv"
    path.write_bytes(text.encode())
    examples, short = read_tsv(path, task_of(name))
    assert examples.texts[0] == first
    assert short == 0
    np.testing.assert_array_equal(examples.labels, labels)
    assert examples.labels.dtype == (np.float32 if name == "STS-B" else np.int32)
    assert all(metric in METRICS for metric in task_of(name).metrics)


def test_faults_are_named(tmp_path):
    path = tmp_path / "train.tsv"
    with pytest.raises(FileNotFoundError, match=r"train\.tsv is missing: --config\.data\.path"):
        read_tsv(path, task_of("RTE"))
    path.write_text("index\tsentence1\tlabel\n")
    with pytest.raises(ValueError, match="has no column 'sentence2'"):
        read_tsv(path, task_of("RTE"))
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tcut\n2\ta\tb\tmaybe\n")
    with pytest.raises(ValueError, match="line 4: the label 'maybe' is not one of"):
        read_tsv(path, task_of("RTE"))
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tcut\n")
    assert read_tsv(path, task_of("RTE"))[1] == 1
    for content, message in (
        (b"", r"has no column 'sentence1'; it has \[''\]"),
        (b"sentence1\tsentence2\tlabel\n", r"train\.tsv has no examples; 0 lines are cut short"),
        (b"sentence1\tsentence2\tlabel\ncut\n\n", "has no examples; 1 lines are cut short"),
        (
            b"sentence1\tsentence2\tlabel\na\tb\xff\tentailment\n",
            r"train\.tsv, line 2: b'\\xff' is not UTF-8",
        ),
        ("sentence1\tsentence2\tlabel\n".encode("utf-16-le"), "line 1: there is a NUL character"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_tsv(path, task_of("RTE"))
    path.write_bytes(b"\n\r\n")
    with pytest.raises(ValueError, match="has no examples"):
        read_tsv(path, task_of("CoLA"))
    for score in ("nan", "inf", "high"):
        path.write_text(f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
        with pytest.raises(ValueError, match=f"line 2: the label '{score}' is not a number"):
            read_tsv(path, task_of("STS-B"))
    with pytest.raises(ValueError, match="config.data.task should be one of"):
        task_of("rte")


def test_a_line_ends_where_it_ends(tmp_path):
    """Carriage returns, form feeds and so on are text."""
    path = tmp_path / "train.tsv"
    path.write_bytes("sentence1\tsentence2\tlabel\na\rb\tc\u2028d\x0c\tentailment\r\n\r\n".encode())
    examples, short = read_tsv(path, task_of("RTE"))
    assert examples.texts == [("a\rb", "c\u2028d\x0c")]
    assert short == 0


def test_metrics():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    b = b + a
    b[3] = b[4]  # a tie
    np.testing.assert_allclose(pearson(a, b), scipy.stats.pearsonr(a, b).statistic, rtol=1e-12)
    np.testing.assert_allclose(spearman(a, b), scipy.stats.spearmanr(a, b).statistic, rtol=1e-12)
    predicted, labels = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 1, 1, 0])
    # Two true and one false positive, one false and two true negatives.
    assert f1(predicted, labels) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert METRICS["matthews"](predicted, labels) == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert METRICS["accuracy"](predicted, labels) == pytest.approx(4 / 6)
    assert pearson(np.zeros(3), np.arange(3)) == f1(np.zeros(3), np.zeros(3)) == 0
