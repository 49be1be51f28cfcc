"""The appendix: glossary, mistakes, syllabus, citations, notation and questions."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "book" / "_data"
APPENDIX = ROOT / "book" / "appendix"
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course import glossary  # noqa: E402
from course.checks import DataError  # noqa: E402
from course.data import load_course  # noqa: E402

# The five articles: abbreviations, also of terms that they write out, and proper names.
ABBREVIATIONS = [
    "AI",
    "API",
    "ASR",
    "CNN",
    "CPU",
    "CUDA",
    "CV",
    "DL",
    "FPGA",
    "GPU",
    "HPC",
    "IDE",
    "LLM",
    "LSTM",
    "ML",
    "MSE",
    "NLP",
    "ReLU",
    "RNN",
    "SGD",
    "TPU",
    "TTS",
    "cuDNN",
]
NAMES = [
    "AlexNet",
    "BERT",
    "GPT-3",
    "Horovod",
    "Keras",
    "MXNet",
    "NumPy",
    "OpenAI",
    "Python",
    "PyTorch",
    "ResNet-50",
    "TensorBoard",
    "TensorFlow",
    "Theano",
    "Transformer",
    "sigmoid",
    "softmax",
    "Adam",
    "MirroredStrategy",
    "PyCharm",
    "Mermaid",
]


@pytest.fixture(scope="module")
def terms() -> list[glossary.Term]:
    return glossary.read_terms(DATA / "glossary")


@pytest.fixture(scope="module")
def bibliography() -> dict[str, dict[str, str]]:
    """Key -> fields of references.bib, braces removed."""
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,]+),\n(.*?)\n\}", text, flags=re.M | re.S)
    fields = r"^\s*(\w+)\s*=\s*\{(.*)\},?$"
    return {
        key: {name: re.sub(r"[{}]", "", value) for name, value in re.findall(fields, body, re.M)}
        for key, body in entries
    }


def pages_of_the_book() -> set[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found: set[str] = set()
    rows = [toc]
    while rows:
        row = rows.pop()
        if "file" in row:
            found.add(row["file"].removeprefix("book/"))
        for key in ("parts", "chapters", "sections"):
            rows += row.get(key, [])
    return found


# --- glossary -----------------------------------------------------------------------------------


def check_names_are_unique(terms: list[glossary.Term]) -> None:
    names = [name.casefold() for term in terms for name in term.names]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})


def test_each_name_of_the_glossary_is_unique(terms) -> None:
    check_names_are_unique(terms)


def test_a_name_that_occurs_twice_is_noticed(terms) -> None:
    with pytest.raises(AssertionError):
        check_names_are_unique([*terms, terms[0]])


@pytest.mark.parametrize("abbreviation", ABBREVIATIONS)
def test_every_abbreviation_of_the_sources_is_in_the_glossary(terms, abbreviation: str) -> None:
    assert any(abbreviation in term.names for term in terms)


@pytest.mark.parametrize("name", NAMES)
def test_every_proper_name_of_the_sources_is_in_the_glossary(terms, name: str) -> None:
    assert any(name == term.en for term in terms)


def test_the_glossary_covers_the_sources(terms) -> None:
    assert sum(bool(term.sources) for term in terms) >= 150
    for letter in "ABCDE":
        assert sum(letter in term.sources for term in terms) >= 40, letter


def test_a_term_without_a_chinese_name_is_a_proper_name(terms) -> None:
    ordinary = [t.en for t in terms if not t.zh and t.en.islower() and t.en != "pip"]
    assert ordinary == []


def test_chinese_names_are_chinese_and_pinyin_is_not(terms) -> None:
    for term in terms:
        for zh, pinyin in zip(term.zh, term.pinyin, strict=True):
            assert re.search(r"[\u4e00-\u9fff]", zh), zh
            assert not re.search(r"[\u4e00-\u9fff]", pinyin), pinyin
            runs = len(re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9]+", zh))
            assert len(pinyin.split()) == runs, (zh, pinyin)


def test_each_definition_is_one_sentence(terms) -> None:
    for term in terms:
        assert term.text.endswith("."), term.en
        assert len(term.text) < 300, term.en
        sentences = re.findall(r"\. (?=[A-Z])", term.text)
        assert not sentences, term.en


def test_every_page_that_the_glossary_names_is_in_the_book(terms) -> None:
    assert {term.page for term in terms if term.page} <= pages_of_the_book()


def test_a_page_that_does_not_exist_yet_is_not_linked() -> None:
    course = load_course(ROOT)
    with_page = glossary.glossary_page(course, {"book/backprop/losses"}, ROOT)
    assert "{doc}`/book/backprop/losses`" in with_page
    assert "{doc}" not in glossary.glossary_page(course, set(), ROOT)


def test_the_chinese_index_lists_every_chinese_name_once_by_pinyin(terms) -> None:
    text = glossary.chinese_index(ROOT)
    listed = re.findall(r"\{term\}`([^`]+)`", text)
    assert sorted(listed) == sorted(zh for term in terms for zh in term.zh)
    assert (
        listed.index("参数")
        < listed.index("大模型")
        < listed.index("梯度")
        < listed.index("张量处理单元")
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{en: loss, sources: [A], text: A., zh: [损失], pinyin: []}", "one pinyin"),
        ("{en: loss, sources: [A]}", "lacks text"),
        ("{en: loss, sources: A, text: A.}", "is not a list of texts"),
        ("{en: loss, sources: [A], text: A., colour: red}", "unknown colour"),
        ("{en: loss, sources: [A], text: A., abbreviations: [Loss]}", "occurs twice"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "1.yml").write_text(f"chapter: 1\ntitle: T\nterms:\n- {row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        glossary.read_terms(tmp_path)


# --- mistakes and syllabus ----------------------------------------------------------------------


def test_all_25_mistakes_are_listed_in_order() -> None:
    course = load_course(ROOT)
    assert [mistake.id for mistake in course.mistakes] == [f"E{n}" for n in range(1, 26)]


def test_every_page_named_by_a_mistake_or_topic_is_in_the_book() -> None:
    course = load_course(ROOT)
    named = {row.page for row in (*course.mistakes, *course.topics) if row.page}
    assert named <= pages_of_the_book()


def test_the_box_of_every_mistake_is_on_its_page() -> None:
    for mistake in load_course(ROOT).mistakes:
        for suffix in (".md", ".py"):
            path = (ROOT / "book" / (mistake.page or "-")).with_suffix(suffix)
            if path.exists():
                assert f"({mistake.label})=" in path.read_text(encoding="utf-8"), mistake.id


def test_every_chapter_and_every_source_has_topics() -> None:
    course = load_course(ROOT)
    assert {topic.chapter for topic in course.topics} == {*range(1, 12), "appendix"}
    for letter in "ABCDE":
        assert sum(letter in topic.sources for topic in course.topics) >= 15, letter
    rows = [(topic.chapter, topic.topic) for topic in course.topics]
    assert len(rows) == len(set(rows))


def test_every_technique_belongs_to_a_topic_of_the_syllabus() -> None:
    course = load_course(ROOT)
    listed = {name for topic in course.topics for name in topic.techniques}
    assert listed == {technique.name for technique in course.techniques.TECHNIQUES}


# --- citations ----------------------------------------------------------------------------------


def test_every_citation_of_the_appendix_has_an_entry(bibliography) -> None:
    texts = [path.read_text(encoding="utf-8") for path in APPENDIX.glob("*.md")]
    texts += [path.read_text(encoding="utf-8") for path in (DATA / "glossary").glob("*.yml")]
    cited = {
        key.strip()
        for text in texts
        for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", text)
        for key in keys.split(",")
    }
    assert len(cited) > 20
    assert cited <= set(bibliography)


WRONG_TITLES = (
    "Backpropagation",
    "AlexNet: Image Classification with Deep Convolutional Neural Networks",
    "Transformers: State-of-the-Art Model for Neural Machine Translation",
    "GPT-3: Language Modeling for Human-like Dialogue",
    "A Tutorial on Deep Learning",
    "Deep Learning for Finance",
    "Deep Learning for Manufacturing",
)


def check_citations_are_the_real_ones(bibliography: dict[str, dict[str, str]]) -> None:
    titles = {entry["title"].casefold() for entry in bibliography.values()}
    assert not {title.casefold() for title in WRONG_TITLES} & titles
    for key, title, author, year in (
        (
            "rumelhart1986learning",
            "Learning representations by back-propagating errors",
            "Rumelhart",
            "1986",
        ),
        (
            "krizhevsky2012imagenet",
            "ImageNet Classification with Deep Convolutional Neural Networks",
            "Krizhevsky",
            "2012",
        ),
        ("vaswani2017attention", "Attention Is All You Need", "Vaswani", "2017"),
        ("brown2020language", "Language Models are Few-Shot Learners", "Brown", "2020"),
        ("harrington2012machine", "Machine Learning in Action", "Harrington", "2012"),
        ("zhang2023dive", "Dive into Deep Learning", "Smola", "2023"),
    ):
        entry = bibliography[key]
        assert (entry["title"], entry["year"]) == (title, year)
        assert author in entry["author"]


def test_e24_the_wrong_titles_are_in_no_entry_and_the_right_ones_are(bibliography) -> None:
    check_citations_are_the_real_ones(bibliography)


@pytest.mark.parametrize("title", WRONG_TITLES)
def test_e24_a_wrong_title_is_noticed(bibliography, title: str) -> None:
    with pytest.raises(AssertionError):
        check_citations_are_the_real_ones({**bibliography, "wrong": {"title": title}})


# --- notation and questions ---------------------------------------------------------------------


def test_the_backward_formulas_of_the_notation_page_hold() -> None:
    torch.manual_seed(0)
    X, W, b = (torch.randn(*s, dtype=torch.float64) for s in ((5, 3), (3, 4), (4,)))
    for tensor in (X, W, b):
        tensor.requires_grad_()
    Z = X @ W + b
    Z.retain_grad()
    Z.square().mean().backward()
    delta = Z.grad
    torch.testing.assert_close(W.grad, X.T @ delta, rtol=1e-10, atol=0)
    torch.testing.assert_close(b.grad, delta.sum(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(X.grad, delta @ W.T, rtol=1e-10, atol=0)
    layer = torch.nn.Linear(3, 4, dtype=torch.float64)
    assert layer.weight.shape == (4, 3)
    layer.load_state_dict({"weight": W.detach().T, "bias": b.detach()})
    layer(X.detach()).square().mean().backward()
    torch.testing.assert_close(layer.weight.grad, delta.T @ X, rtol=1e-10, atol=0)


def test_every_formula_of_the_notation_page_is_on_it() -> None:
    text = (APPENDIX / "notation.md").read_text(encoding="utf-8")
    for formula in (r"X^\top \delta", r"\sum_{i=1}^n \delta_i", r"\delta W^\top", r"\delta^\top X"):
        assert formula in text


@pytest.mark.parametrize(("letter", "count"), [("A", 1), ("B", 3), ("C", 2), ("D", 3), ("E", 5)])
def test_every_question_of_the_sources_is_answered(letter: str, count: int) -> None:
    text = (APPENDIX / "faq.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    answers = [s for s in sections if s.splitlines()[0].endswith(f"? ({letter})")]
    assert len(answers) == count
    for answer in answers:
        assert len(answer.split()) > 60, answer.splitlines()[0]
