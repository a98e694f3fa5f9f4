// What a reader could not read on the page that is shown: pale text, text that is cut, figures without an area.
() => {
  const found = new Set();
  const short = (node) => `"${node.textContent.trim().slice(0, 40)}"`;
  const parse = (color) => { const c = color.match(/[\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const seen = { opacityProperty: true, visibilityProperty: true };

  function ground(element) {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] > 0) layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  }

  // WCAG 2 AA: 4.5, or 3 for large text.
  const texts = document.createTreeWalker(document.querySelector(".bd-article") ?? document.body, NodeFilter.SHOW_TEXT);
  const parents = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || parents.has(element)) continue;
    parents.add(element);
    if (element.closest("svg, script, style, noscript, mjx-container, [aria-hidden=true]")) continue;
    if (!element.checkVisibility(seen)) continue;
    const [style, below] = [getComputedStyle(element), ground(element)];
    const [a, b] = [luminance(over(parse(style.color), below)), luminance(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < least) found.add(`contrast ${ratio.toFixed(2)} of ${short(element)}`);
  }

  for (const element of document.querySelectorAll(".bd-article :is(p, li, td, th, pre, h1, h2, h3, button, label, figcaption)")) {
    const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
    if (hides && element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 1) found.add(`cut: ${short(element)}`);
  }

  document.querySelectorAll(".plotly-figure").forEach((figure, i) => {
    const box = figure.querySelector(".main-svg")?.getBoundingClientRect();
    if (!box) return;
    if (box.width < 100 || box.height < 100) found.add(`figure ${i} has no area`);
    for (const text of figure.querySelectorAll(".main-svg text")) {
      const r = text.getBoundingClientRect();
      if (!r.width || text.closest(".hoverlayer") || !text.checkVisibility(seen)) continue;
      const beyond = Math.max(box.left - r.left, r.right - box.right, box.top - r.top, r.bottom - box.bottom);
      if (beyond > SLACK) found.add(`figure ${i} cuts ${short(text)} by ${Math.round(beyond)} px`);
    }
  });
  return [...found];
}
