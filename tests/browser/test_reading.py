"""What a reader does with the book: search, unfold, switch tabs and themes, open a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from browser.book_pages import notebook_pages, repository
from browser.visiting import open_page
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(120)]

GLOSSARY = "book/appendix/glossary"
CLASSES = {"admonition", "dropdown", "exercise", "solution", "toggle", "toggle-hidden"}


@pytest.fixture
def opened(window: BrowserContext, book: str) -> Iterator:
    """address inside the book -> its page, closed at the end of the test."""
    pages: list[Page] = []

    def open_one(address: str) -> Page:
        pages.append(open_page(window, f"{book}/{address}"))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()


@pytest.fixture(scope="module", params=notebook_pages())
def notebook(request: pytest.FixtureRequest, window: BrowserContext, book: str) -> Iterator[Page]:
    """Each notebook page once, open for all tests of it; its path is in `page.notebook`."""
    page = open_page(window, f"{book}/{request.param}.html")
    page.notebook = request.param
    yield page
    page.close()


def each(locator: Locator) -> list[Locator]:
    return [locator.nth(index) for index in range(locator.count())]


# --- search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["softmax", "chain rule"])
def test_search_finds_a_word_of_the_text(opened, word: str) -> None:
    page = opened(f"search.html?q={quote(word)}")
    expect(page.locator("ul.search li").first).to_be_visible(timeout=10_000)


@pytest.mark.parametrize("word", ["梯度下降", "SGD", "over-fitting"])
def test_search_leads_to_the_entry_of_the_glossary(opened, word: str) -> None:
    page = opened(f"search.html?q={quote(word)}")
    link = page.locator(f"a[href*='{GLOSSARY}.html#term-']")
    hit = page.locator("ul.search li", has=link).first
    expect(hit).to_contain_text(word, timeout=10_000)
    hit.locator("a").first.click()
    expect(page.locator(":target")).to_contain_text(word)


def test_search_for_nonsense_finds_nothing(opened) -> None:
    page = opened("search.html?q=qwxzvkjq")
    expect(page.locator(".search-summary")).to_contain_text("did not match", timeout=10_000)
    assert page.locator("ul.search li").count() == 0


def test_the_glossary_filter_shows_the_matching_entries_only(opened) -> None:
    page = opened(f"{GLOSSARY}.html")
    box, entries = page.get_by_label("Show only entries with"), page.locator("dl.glossary > dd")
    everything = entries.count()
    for words, name in (("梯度", "gradient descent"), ("penalty sources", "regularization")):
        box.fill(words)
        shown = page.locator("dl.glossary > dd:visible").count()
        assert 0 < shown < everything / 4
        expect(page.locator("dl.glossary dt:visible", has_text=name).first).to_be_visible()
        expect(page.locator("#glossary-count")).to_have_text(f"{shown} of {everything}")
    box.fill("")
    expect(entries.last).to_be_visible()


# --- themes -------------------------------------------------------------------------------------


def test_the_switch_turns_the_page_dark_and_the_next_page_stays_so(
    browser: Browser, book: str
) -> None:
    context = browser.new_context(color_scheme="light")
    page = open_page(context, f"{book}/book/index.html")
    root, switch = page.locator("html"), page.locator("button.theme-switch-button:visible").first
    assert root.get_attribute("data-theme") == "light"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(3):
        if root.get_attribute("data-mode") == "dark":
            break
        switch.click()
    assert root.get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.goto(f"{book}/book/appendix/tools.html")
    assert root.get_attribute("data-theme") == "dark"
    context.close()


def test_a_reader_whose_system_is_dark_gets_the_dark_theme(browser: Browser, book: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{book}/book/index.html")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    context.close()


# --- notebooks ----------------------------------------------------------------------------------


def test_tabs_switch(notebook: Page) -> None:
    for tabs in each(notebook.locator(".sd-tab-set")):
        labels, panels = tabs.locator("> label"), tabs.locator("> .sd-tab-content")
        assert labels.count() == panels.count() > 1
        for chosen in (1, 0):
            labels.nth(chosen).click()
            for index, panel in enumerate(each(panels)):
                expect(panel).to_be_visible(visible=index == chosen)


# Opens every fold but the first of its kind, which gets a real click, and reads what is inside.
OPEN_FOLDS = r"""() => {
  const words = (element) => element.innerText.trim().split(/\s+/).length;
  const report = [];
  for (const fold of document.querySelectorAll(".bd-article details")) {
    if (!fold.open) fold.querySelector("summary").click();
    report.push([fold.open, words(fold), fold.outerHTML.slice(0, 80)]);
  }
  for (const fold of document.querySelectorAll(".admonition.dropdown")) {
    const content = fold.querySelector(":scope > :not(.admonition-title):not(button)");
    const hidden = () => getComputedStyle(content).visibility === "hidden";
    if (hidden()) fold.querySelector("button.toggle-button").click();
    report.push([!hidden(), words(content), fold.outerHTML.slice(0, 80)]);
  }
  return report;
}"""


def test_folded_answers_open_and_hold_something(notebook: Page) -> None:
    details = notebook.locator(".bd-article details:not([open])").first
    if details.count():
        details.locator("> summary").click()
    box = notebook.locator(".admonition.dropdown").first
    if box.count():
        content = box.locator("> :not(.admonition-title):not(button)").first
        expect(content).to_be_hidden()
        box.locator("button.toggle-button").first.click()
        expect(content).to_be_visible()
    for opened, words, which in notebook.evaluate(OPEN_FOLDS):
        assert opened, which
        assert words > 3, which


def test_no_exercise_and_no_solution_is_empty(notebook: Page) -> None:
    for box in each(notebook.locator("div.exercise, div.solution")):
        title = box.locator("> .admonition-title").first.text_content() or ""
        words = (box.text_content() or "").removeprefix(title).split()
        assert len(words) > 8, title
        # Without a line break after `:class: dropdown` the text becomes part of the class.
        assert set((box.get_attribute("class") or "").split()) <= CLASSES, title


def test_the_launch_buttons_have_the_right_address(notebook: Page) -> None:
    name, branch = repository()
    file = f"{notebook.notebook}.ipynb"
    addresses = {
        f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{file}",
        f"https://colab.research.google.com/github/{name}/blob/{branch}/{file}",
    }
    buttons = notebook.locator(".dropdown-launch-buttons a")
    assert {button.get_attribute("href") for button in each(buttons)} == addresses
    notebook.locator(".dropdown-launch-buttons > button").click()
    expect(buttons.first).to_be_visible()


def test_there_are_tabs_folds_and_exercises_to_test(opened) -> None:
    page = opened("book/backprop/losses.html")
    for kind in (".sd-tab-set", ".admonition.dropdown", ".bd-article details", "div.exercise"):
        assert page.locator(kind).count() > 0, kind
