// The filter of the glossary page: shows the entries whose names or text hold what was typed, in any language.
(() => {
  const box = document.querySelector(".glossary-filter");
  const input = document.getElementById("glossary-filter");
  const count = document.getElementById("glossary-count");
  const index = document.getElementById("glossary-pinyin");
  const letters = [...document.querySelectorAll("section")].filter((s) => s.querySelector(":scope > dl.glossary"));
  const entries = letters.flatMap((letter) => {
    const found = [];
    for (const node of letter.querySelector(":scope > dl.glossary").children) {
      if (node.tagName === "DT" && (!found.length || found.at(-1).closed)) found.push({ letter, nodes: [], closed: false });
      found.at(-1).nodes.push(node);
      found.at(-1).closed = node.tagName === "DD";
    }
    return found;
  });
  for (const entry of entries) entry.text = entry.nodes.map((node) => node.textContent).join(" ").toLowerCase();

  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const letter of letters) letter.hidden = words.length > 0;
    for (const entry of entries) {
      const match = words.every((word) => entry.text.includes(word));
      for (const node of entry.nodes) node.hidden = !match;
      if (match) {
        entry.letter.hidden = false;
        shown += 1;
      }
    }
    if (index) index.closest("section").hidden = words.length > 0;
    count.textContent = words.length ? `${shown} of ${entries.length}` : "";
  };
  input.addEventListener("input", show);
  box.hidden = false;
})();
