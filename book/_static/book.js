// Draws the figures of a page in the colours of its theme, opens folded code, shows definitions, and lets widgets
// typeset equations.

// The widget library calls MathJax 2's queue; MathJax 3 has none. Deferred scripts have run by this event, and
// the widgets wait for "load", so the stand-in is in place in time.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = { Queue: ([, , node]) => window.MathJax.typesetPromise?.([node]).catch(() => {}) };
  }
});

// A script, not fetch(): pages that were opened as files may not fetch.
function loadScript(path) {
  return new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root}_static/${path}`;
    script.onload = done;
    document.head.append(script);
  });
}

// The definition of a term: under the pointer, on focus, on the first tap. Escape closes it, and it may be pointed at.
document.addEventListener("DOMContentLoaded", () => {
  const terms = document.querySelectorAll("a.term");
  if (!terms.length) return;
  loadScript("glossary.js");
  const box = Object.assign(document.createElement("div"), { id: "definition", hidden: true });
  box.setAttribute("role", "tooltip");
  document.body.append(box);
  let [shown, timer, tapped] = [null, 0, false];

  function hide() {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    [shown, box.hidden] = [null, true];
  }
  function show(term) {
    hide();
    if (!(box.textContent = window.glossary?.[decodeURIComponent(term.hash.slice(1))] ?? "")) return;
    [shown, box.hidden] = [term, false];
    term.setAttribute("aria-describedby", box.id);
    const [word, page] = [term.getClientRects()[0], document.documentElement.getBoundingClientRect()];
    const above = word.bottom + box.offsetHeight + 16 > window.innerHeight && word.top > box.offsetHeight + 16;
    const left = Math.max(8, Math.min(word.left, page.width - box.offsetWidth - 8));
    box.style.left = `${left - page.left}px`;
    box.style.top = `${(above ? word.top - box.offsetHeight - 6 : word.bottom + 6) - page.top}px`;
  }
  const soon = (what, wait) => (clearTimeout(timer), (timer = setTimeout(what, wait)));
  const mouse = (event) => event.pointerType === "mouse";
  terms.forEach((term) => {
    term.addEventListener("pointerenter", (event) => mouse(event) && soon(() => show(term), 150));
    term.addEventListener("pointerleave", (event) => mouse(event) && soon(hide, 250));
    term.addEventListener("pointerdown", (event) => (tapped = !mouse(event) && shown !== term));
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", hide);
    term.addEventListener("click", (event) => tapped && (event.preventDefault(), show(term), (tapped = false)));
  });
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", (event) => mouse(event) && soon(hide, 250));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("pointerdown", (event) => !event.target.closest("a.term, #definition") && hide());
});

// One button for all the folded code of a page.
document.addEventListener("DOMContentLoaded", () => {
  const folded = document.querySelectorAll(".cell:not(.tag_solution) > details.hide.above-input");
  if (!folded.length) return;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "all-code" });
  const say = (open) => (button.textContent = open ? "Fold all code" : "Show all code");
  button.addEventListener("click", () => {
    const open = ![...folded].every((code) => code.open);
    folded.forEach((code) => (code.open = open));
    say(open);
  });
  say(false);
  document.querySelector(".bd-article h1")?.after(button);
});

(() => {
  const narrow = () => window.matchMedia("(max-width: 640px)").matches;
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };

  function layoutOf(figure) {
    const layout = structuredClone(figure.stored.layout);
    delete layout.width; // the page decides
    if ("themed" in figure.dataset) {
      const ink = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
      layout.template = structuredClone(window.plotTemplates[ink]);
      if (narrow()) {
        layout.template.layout.font.size = 12;
        layout.template.layout.margin.l = 44;
      }
    }
    return layout;
  }

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const options = { ...config, displayModeBar: narrow() ? false : "hover" };
    if (plot.data) {
      return window.Plotly.react(plot, plot.data, layoutOf(figure), options);
    }
    const { data, frames } = structuredClone(figure.stored);
    return window.Plotly.newPlot(plot, { data, layout: layoutOf(figure), config: options, frames });
  }

  const load = (name) => loadScript(`figures/${name}.js`).then(() => window.plotFiles[name]);

  async function drawAll() {
    for (const figure of document.querySelectorAll("figure.plotly-figure")) {
      const { dataset, textContent } = figure.querySelector("script");
      figure.stored ??= dataset.file ? await load(dataset.file) : JSON.parse(textContent);
      await draw(figure);
      await new Promise((next) => setTimeout(next)); // the page stays responsive between figures
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (!window.Plotly) return;
    let turn = drawAll();
    const again = () => (turn = turn.then(drawAll));
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    window.matchMedia("(max-width: 640px)").addEventListener("change", again);
  });
})();
