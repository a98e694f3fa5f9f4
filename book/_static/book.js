// Draws the figures of a page in the colours of its theme, opens folded code, sorts tables, shows definitions, and lets
// widgets typeset equations.

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

// Heads of result tables sort them: down, up, down, ... Cells that span rows are written out first; what is no number
// comes last.
document.addEventListener("DOMContentLoaded", () => {
  const value = (row, column) => row.children[column].textContent.trim().replace("−", "-");
  const number = (text) => Number.parseFloat(text.replace(/,(?=\d{3})/g, ""));

  function writeOut(body) {
    for (const cell of body.querySelectorAll("[rowspan]")) {
      const [row, column] = [cell.parentElement, [...cell.parentElement.children].indexOf(cell)];
      for (let i = 1, next = row.nextElementSibling; i < cell.rowSpan; i += 1, next = next.nextElementSibling) {
        const copy = cell.cloneNode(true);
        copy.removeAttribute("rowspan");
        next.insertBefore(copy, next.children[column] ?? null);
      }
      cell.removeAttribute("rowspan");
    }
  }
  function sort(table, head, column) {
    const [body, up] = [table.tBodies[0], head.getAttribute("aria-sort") === "descending"];
    writeOut(body);
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      const [p, q] = [number(x), number(y)];
      if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
      return (up ? 1 : -1) * (Number.isNaN(p) ? y.localeCompare(x) : p - q);
    };
    body.append(...[...body.rows].sort(compare));
  }
  for (const table of document.querySelectorAll("div.cell_output .text_html table")) {
    if (table.tBodies[0]?.rows.length < 3 || table.tHead?.querySelector("[colspan]:not([colspan='1'])")) continue;
    for (const row of table.tHead?.rows ?? []) {
      [...row.cells].forEach((head, column) => {
        if (!head.textContent.trim()) return;
        const button = Object.assign(document.createElement("button"), { type: "button", className: "sort" });
        button.append(...head.childNodes);
        button.addEventListener("click", () => sort(table, head, column));
        head.append(button);
      });
    }
  }
});

// On paper, long names of rows and columns break after an underscore.
window.addEventListener("beforeprint", () => {
  for (const head of document.querySelectorAll(".bd-article :is(th:not(:has(*)), button.sort)")) {
    head.innerHTML = head.innerHTML.replaceAll("_", "_<wbr>");
  }
});

(() => {
  const PANEL = 250; // pixels
  const LINE = 34; // letters
  const ROWS = 1000; // of a figure's numbers
  const narrow = () => window.matchMedia("(max-width: 640px)").matches;
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };

  // In lines of at most LINE letters, broken at spaces; what is marked up stays as it is.
  function wrapped(text) {
    if (text.length <= LINE || text.includes("<")) return text;
    return text.split(" ").reduce((lines, word) => {
      const longer = `${lines.at(-1)} ${word}`.trim();
      return longer.length > LINE ? [...lines, word] : [...lines.slice(0, -1), longer];
    }, [""]).join("<br>");
  }

  function layoutOf(figure) {
    const layout = structuredClone(figure.stored.layout);
    delete layout.width; // the page decides
    if ("themed" in figure.dataset) {
      const ink = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
      layout.template = structuredClone(window.plotTemplates[ink]);
      if (narrow()) {
        layout.template.layout.font.size = 12;
        layout.template.layout.margin.l = 44;
        const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
        const texts = [...axes.map((key) => layout[key].title), ...(layout.annotations ?? [])];
        texts.forEach((title) => title?.text && (title.text = wrapped(title.text)));
      }
    }
    return layout;
  }

  // Panels side by side keep a width that their words fit into; on a phone the reader pushes the figure sideways.
  function widen(plot, layout) {
    const starts = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).map((key) => layout[key].domain?.[0] ?? 0);
    const columns = new Set(starts).size;
    plot.style.minWidth = narrow() && columns > 1 ? `${PANEL * columns}px` : "";
  }

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    widen(plot, figure.stored.layout);
    const options = { ...config, displayModeBar: narrow() ? false : "hover" };
    if (plot.data) {
      return window.Plotly.react(plot, plot.data, layoutOf(figure), options);
    }
    const { data } = structuredClone(figure.stored);
    return window.Plotly.newPlot(plot, data, layoutOf(figure), options);
  }

  // The numbers of a figure as a table, for readers who hear the page and for those who want one value: made when opened.
  function addTable(figure) {
    const details = Object.assign(document.createElement("details"), { className: "numbers" });
    details.append(Object.assign(document.createElement("summary"), { textContent: "Numbers" }));
    details.addEventListener("toggle", () => details.querySelector("table") ?? details.append(tableOf(figure)), { once: true });
    figure.querySelector(".plot").after(details);
  }
  function tableOf(figure) {
    const { _fullData: data, layout } = figure.querySelector(".plot"); // with arrays decoded
    const table = document.createElement("table");
    const title = (axis, letter) => layout[(axis ?? letter).replace(/^[xy]/, "$&axis")]?.title?.text ?? letter;
    const heads = ["series", title(data[0]?.xaxis, "x"), title(data[0]?.yaxis, "y"), "note"];
    const row = (tag, cells) => {
      const line = document.createElement("tr");
      for (const text of cells) {
        const cell = document.createElement(tag);
        cell.textContent = String(text ?? "").replace(/<[^>]+>/g, " ");
        line.append(cell);
      }
      return line;
    };
    table.createTHead().append(row("th", heads));
    const body = table.createTBody();
    for (const trace of data) {
      const [x, y] = [trace.x ?? [], trace.y ?? []];
      for (let i = 0; i < Math.min(ROWS - body.rows.length, Math.max(x.length, y.length)); i += 1) {
        const note = Array.isArray(trace.hovertext) ? trace.hovertext[i] : trace.hovertext;
        body.append(row("td", [trace.name, x[i], y[i], note]));
      }
    }
    return table;
  }

  const load = (name) => loadScript(`figures/${name}.js`).then(() => window.plotFiles[name]);

  async function drawAll() {
    for (const figure of document.querySelectorAll("figure.plotly-figure")) {
      const { dataset, textContent } = figure.querySelector("script");
      figure.stored ??= dataset.file ? await load(dataset.file) : JSON.parse(textContent);
      await draw(figure);
      if (!figure.querySelector("details.numbers")) addTable(figure);
      await new Promise((next) => setTimeout(next)); // the page stays responsive between figures
    }
  }

  // On paper: the light theme, whatever the screen's, and figures that shrink with the sheet. All of it at once: the
  // browser prints as soon as this function returns.
  const root = document.documentElement;
  let onScreen;
  function print() {
    onScreen = root.dataset.theme;
    if (onScreen === "dark") root.dataset.theme = "light";
    for (const figure of document.querySelectorAll("figure.plotly-figure")) {
      if (!figure.stored) continue;
      if (onScreen === "dark") draw(figure);
      const box = figure.querySelector(".svg-container");
      const [width, height] = [box.offsetWidth, box.offsetHeight];
      const most = `min(${width}px, 200mm * ${width / height})`; // caption and all on one sheet
      Object.assign(box.style, { aspectRatio: `${width} / ${height}`, maxWidth: most });
      for (const svg of box.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }
  }
  function printed() {
    for (const box of document.querySelectorAll(".svg-container")) {
      Object.assign(box.style, { aspectRatio: "", maxWidth: "" });
      for (const svg of box.querySelectorAll(".main-svg")) svg.removeAttribute("viewBox");
    }
    root.dataset.theme = onScreen;
  }

  document.addEventListener("DOMContentLoaded", () => {
    window.addEventListener("beforeprint", print);
    window.addEventListener("afterprint", printed);
    if (!window.Plotly) return;
    let turn = drawAll();
    const again = () => (turn = turn.then(drawAll));
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    window.matchMedia("(max-width: 640px)").addEventListener("change", again);
  });
})();
