// Draws the figures of a page in the colours of its theme, opens folded code, and lets widgets typeset equations.

// The widget library calls MathJax 2's queue; MathJax 3 has none. Deferred scripts have run by this event, and
// the widgets wait for "load", so the stand-in is in place in time.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = { Queue: ([, , node]) => window.MathJax.typesetPromise?.([node]).catch(() => {}) };
  }
});

// One button for all the folded code of a page.
document.addEventListener("DOMContentLoaded", () => {
  const folded = document.querySelectorAll("details.hide.above-input");
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
      const layout = layoutOf(figure);
      layout.sliders?.forEach((slider, i) => (slider.active = plot.layout.sliders[i].active)); // where the reader is
      if (layout.sliders) layout.title = plot.layout.title;
      return window.Plotly.react(plot, plot.data, layout, options);
    }
    const { data, frames } = structuredClone(figure.stored);
    return window.Plotly.newPlot(plot, { data, layout: layoutOf(figure), config: options, frames });
  }

  // plotly's sliders take no keys: a range input below the figure moves the slider, and says where it stands.
  function takeKeys(plot) {
    const slider = plot.layout.sliders?.[0];
    if (!slider || plot.nextElementSibling?.matches("input.slide")) return;
    const [input, prefix] = [document.createElement("input"), slider.currentvalue?.prefix ?? ""];
    const say = () => input.setAttribute("aria-valuetext", prefix + slider.steps[input.value].label);
    const range = { type: "range", className: "slide", min: 0, max: slider.steps.length - 1, value: slider.active ?? 0 };
    Object.assign(input, range).setAttribute("aria-label", prefix.replace(/[\s:=]+$/, "") || "position");
    input.addEventListener("input", () => {
      const [data, layout, traces] = slider.steps[input.value].args;
      window.Plotly.update(plot, data, { ...layout, "sliders[0].active": Number(input.value) }, traces);
      say();
    });
    plot.on("plotly_sliderchange", (moved) => {
      input.value = moved.slider.active;
      say();
    });
    say();
    plot.after(input);
  }

  // A script, not fetch(): pages that were opened as files may not fetch.
  function load(name) {
    return new Promise((done) => {
      const script = document.createElement("script");
      script.src = `${document.documentElement.dataset.content_root}_static/figures/${name}.js`;
      script.onload = () => done(window.plotFiles[name]);
      document.head.append(script);
    });
  }

  async function drawAll() {
    for (const figure of document.querySelectorAll("figure.plotly-figure")) {
      const { dataset, textContent } = figure.querySelector("script");
      figure.stored ??= dataset.file ? await load(dataset.file) : JSON.parse(textContent);
      await draw(figure);
      takeKeys(figure.querySelector(".plot"));
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
