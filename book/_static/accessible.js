// Names and keyboard access that the theme leaves out; the page reads the same without them.
(() => {
  // The arrows that unfold a chapter in the sidebar have no name of their own.
  const nameArrows = () => {
    for (const icon of document.querySelectorAll("img.toggler")) icon.alt = "Fold or unfold this package";
    for (const summary of document.querySelectorAll("nav.bd-links summary")) {
      const chapter = summary.closest("li")?.querySelector("a")?.textContent.trim();
      summary.setAttribute("aria-label", `Pages of ${chapter ?? "this part"}`);
    }
  };
  // Whatever scrolls sideways must be reachable by keyboard; what fits must not be a stop.
  const SCROLLING = "mjx-container, div.math, dt.sig, pre, .pst-scrollable-table-container, .course-picture, .cell_output .output";
  const stopAtScrolling = () => {
    for (const box of document.querySelectorAll(SCROLLING)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else if (box.getAttribute("tabindex") === "0") box.removeAttribute("tabindex");
    }
  };
  document.addEventListener("DOMContentLoaded", nameArrows);
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    // Also when the sidebars have slid in or out.
    const article = document.querySelector(".bd-article-container");
    if (article) new ResizeObserver(stopAtScrolling).observe(article);
    stopAtScrolling();
  });
  document.addEventListener("toggle", stopAtScrolling, true);
})();
