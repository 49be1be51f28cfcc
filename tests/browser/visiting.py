"""One visit to a page of the built book: open it once, note everything that the tests ask for.

A visit opens the page in the light theme, waits until the formulas are set, unfolds what is folded,
and takes down errors, requests, formulas, images, the width on a phone and axe-core's findings in
both themes.

Two things keep axe-core from taking half a minute on a long page and change none of its answers.
Colour contrast depends on colours, size and weight alone, so two texts of each kind are looked at.
And once those are chosen, `<span>`s that bear nothing but a colour, and the glyphs of formulas,
which are hidden from screen readers, are taken out of the page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

PHONE = {"width": 400, "height": 800}
LOCAL = {"data", "blob", "about"}

# Waits for MathJax and the fonts, and for pictures that load late.
SETTLE = """async () => {
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  do { await frame(); await document.fonts.ready; } while (document.fonts.status !== "loaded");
  await frame();
  for (const image of document.images) {
    image.loading = "eager";
    if (!image.complete) await new Promise((done) => { image.onload = image.onerror = done; });
  }
}"""

# What a reader must never see: TeX that was not set. Code shows its own text, formulas hide theirs.
RAW_TEX = r"""() => {
  const found = [];
  const hidden = "code, pre, script, style, textarea, mjx-container, .highlight";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest(hidden)) continue;
    const match = /\$\$|\\\(|\\\[|\\begin\{|\$[^\s$][^$\n]{0,80}[^\s$]\$/.exec(node.textContent);
    if (match) found.push(node.textContent.trim().slice(0, 80));
  }
  return found;
}"""

FORMULAS = """() => ({
  expected: document.querySelectorAll(".math").length,
  rendered: document.querySelectorAll(".math mjx-container").length,
  errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(
    (error) => error.getAttribute("data-mjx-error") || error.textContent),
})"""

IMAGES = """() => [...document.images].map((image) => ({
  source: image.getAttribute("src"), width: image.naturalWidth, alt: image.getAttribute("alt"),
  beside_text: Boolean(image.closest("a")?.innerText.trim()),
}))"""

UNFOLD = """() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const folded = document.querySelectorAll(".toggle-hidden");
  for (const box of folded) box.classList.remove("toggle-hidden");
}"""

# Marks two visible elements for each kind of text: same colour, size, weight and backgrounds.
SAMPLE_TEXTS = """() => {
  const known = new Map();
  const layers = (element) => {
    if (!element) return "";
    if (!known.has(element)) {
      const style = getComputedStyle(element);
      const own = [style.backgroundColor, style.backgroundImage, style.opacity].join();
      const plain = own === "rgba(0, 0, 0, 0),none,1";
      known.set(element, layers(element.parentElement) + (plain ? "" : `|${own}`));
    }
    return known.get(element);
  };
  const kinds = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    // axe gives no verdict on a single character.
    if (walker.currentNode.textContent.trim().length < 2 || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const kind = [style.color, style.fontSize, style.fontWeight, layers(element)].join();
    const count = kinds.get(kind) ?? 0;
    if (count < 2) element.setAttribute("data-sample", "");
    kinds.set(kind, count + 1);
  }
  return kinds.size;
}"""

THIN_OUT = """() => {
  for (const glyphs of document.querySelectorAll("mjx-container > mjx-math")) glyphs.remove();
  for (const span of [...document.querySelectorAll("span")].reverse()) {
    const bare = span.getAttributeNames().every((name) => name === "class" || name === "style");
    if (bare && !span.querySelector("*")) span.replaceWith(...span.childNodes);
  }
}"""

# Elements that stick out to the right and are not inside a box that scrolls by itself.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  const wide = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
  if (wide <= window.innerWidth) return {wide, culprits: []};
  const scrolls = (element) => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== "visible") return true;
    return false;
  };
  const culprits = [...document.body.querySelectorAll("*")]
    .filter((element) => element.getBoundingClientRect().right > width + 1 && !scrolls(element))
    .slice(0, 5).map((element) => element.outerHTML.slice(0, 120));
  return {wide, culprits};
}"""


@dataclass
class Visit:
    """What was seen on one page."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    formulas: dict[str, Any] = field(default_factory=dict)
    raw_tex: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    axe_light: list[str] = field(default_factory=list)
    axe_dark: list[str] = field(default_factory=list)
    overflow: dict[str, Any] = field(default_factory=dict)


def open_page(context: BrowserContext, address: str, visit: Visit | None = None) -> Page:
    """Open `address` in a new tab; what goes wrong is written into `visit`.

    The browser itself reaches no other host (conftest.py), which leaves its cache at work.
    """
    visit = visit if visit is not None else Visit()
    host = urlsplit(address).netloc
    page = context.new_page()

    def note(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.netloc != host and parts.scheme not in LOCAL:
            visit.foreign.append(request.url)

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            visit.errors.append(f"{message.text} ({message.location.get('url', '')})")

    page.on("request", note)
    page.on("console", listen)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("requestfailed", lambda request: visit.failed.append(request.url))
    page.goto(address, wait_until="load")
    page.evaluate(SETTLE)
    return page


def axe(page: Page, **options: Any) -> list[str]:
    """axe-core's serious and critical findings, one line for each element."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(Axe().axe_script)
        page.evaluate("axe.configure({rules: [{id: 'color-contrast', selector: '[data-sample]'}]})")
    # Without `preload` axe does not fetch the style sheets a second time, from wrong addresses.
    options = {"resultTypes": ["violations"], "preload": False, **options}
    results = page.evaluate("options => axe.run(options)", options)
    return [
        f"{found['impact']} {found['id']}: {node['html'][:160]} {json.dumps(node['target'])}"
        for found in results["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


STILL = """async () => {
  await Promise.all(document.getAnimations().map((moving) => moving.finished.catch(() => 0)));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}"""


def set_theme(page: Page, theme: str) -> None:
    """Do what the theme's own switch does, and wait until nothing moves."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    page.evaluate(STILL)


def visit_page(context: BrowserContext, address: str) -> Visit:
    """Open a page and take down everything."""
    visit = Visit()
    page = open_page(context, address, visit)
    visit.formulas = page.evaluate(FORMULAS)
    visit.raw_tex = page.evaluate(RAW_TEX)
    visit.images = page.evaluate(IMAGES)
    page.evaluate(UNFOLD)
    desktop = page.viewport_size
    page.set_viewport_size(PHONE)
    visit.overflow = page.evaluate(OVERFLOW)
    page.set_viewport_size(desktop)
    for theme in ("dark", "light"):
        set_theme(page, theme)
        assert page.evaluate(SAMPLE_TEXTS) > 0
    page.evaluate(THIN_OUT)
    visit.axe_light = axe(page)
    set_theme(page, "dark")
    # Only colours change with the theme.
    visit.axe_dark = axe(page, runOnly={"type": "rule", "values": ["color-contrast"]})
    page.close()
    return visit
