// The explorer of the page 90_explorer: prepared examples, read from a script beside this one, without a kernel.
// Numbers are indexed text -> token -> position of lambda -> kind of codes; kinds are the steps, optimum, pursuit.

(() => {
  // The place of this file, known only while it runs: the data lies beside it.
  const here = document.currentScript.src.replace(/[^/]*$/, "");

  // --- small helpers --------------------------------------------------------------------------------------------
  // An element with properties and children; text is text, whatever stands in it.
  function make(tag, props = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  function draw(tag, props, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  const number = (value) => (value >= 100 ? value.toFixed(0) : value === 0 ? "0" : value.toPrecision(3));
  const percent = (share) => (share > 0 && share < 1e-4 ? "< 0.01 %" : `${number(100 * share)} %`);
  const visible = (token) =>
    token.replace(/^ +| +$/g, "").replaceAll("\r", "").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "␣";
  const oneLine = (text) => text.replaceAll("\r", "").replaceAll("\n", " ⏎ ");
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  // --- data -----------------------------------------------------------------------------------------------------
  // A script, not fetch(): pages that were opened as files may not fetch.
  function load(scale) {
    return new Promise((done, failed) => {
      const unpack = () => {
        const bytes = Uint8Array.from(atob(window.explorerFiles[scale]), (c) => c.charCodeAt(0));
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
        new Response(stream).json().then(done, failed);
      };
      if (window.explorerFiles?.[scale]) return unpack();
      document.head.append(make("script", { src: `${here}${scale}.js`, onload: unpack, onerror: failed }));
    });
  }

  // --- the view -------------------------------------------------------------------------------------------------
  async function open(box) {
    const models = JSON.parse(box.dataset.models);
    const files = {};
    const at = { model: Object.keys(models)[0], sae: 0, text: 0, token: +box.dataset.token, latent: null };
    const part = (name, tag = "div", props = {}) => make(tag, { className: name, ...props });
    const [tokens, scale, whole, numbers, codes, descent, cards] = [
      part("tokens", "fieldset"), part("scale", "p"), part("whole", "p"), part("numbers", "table"),
      part("codes", "table"), part("descent", "figure"), part("cards", "section"),
    ];
    const said = part("unseen said", "p", { role: "status", "aria-live": "polite" });
    const choose = (name, label) => {
      const select = make("select", { name });
      select.addEventListener("change", () => {
        at[name] = name === "model" ? select.value : +select.value;
        if (name !== "sae") at.token = +box.dataset.token;
        at.latent = null;
        fill();
      });
      return [select, make("label", {}, `${label} `, select)];
    };
    const slide = (name, label) => {
      const [input, value] = [make("input", { type: "range", name, min: 0, step: 1 }), make("output")];
      input.addEventListener("input", () => ((at[name] = +input.value), show()));
      return [input, value, make("label", {}, make("span", {}, label), input, value)];
    };
    const [model, modelLabel] = choose("model", "language model");
    const [sae, saeLabel] = choose("sae", "SAE");
    const [text, textLabel] = choose("text", "text");
    const [lambda, lambdaValue, lambdaLabel] = slide("lambda", "λ");
    const [steps, stepsValue, stepsLabel] = slide("steps", "ISTA steps");

    const fileNow = () => files[at.model];
    const saeNow = () => fileNow().saes[at.sae];
    const textNow = () => saeNow().texts[at.text];
    const first = () => textNow()["left out"];
    // The kinds of codes on the screen: name, words, and their place in the data.
    const kinds = () => {
      const marks = fileNow().steps;
      const step = marks[at.steps];
      const words = ["encoder", `${step} ISTA step${step === 1 ? "" : "s"}`, "optimum", "pursuit"];
      const places = [0, at.steps, marks.length, marks.length + 1];
      return ["encoder", "steps", "optimum", "pursuit"].map((name, i) => ({ name, words: words[i], k: places[i] }));
    };
    // What is known of one token and kind of codes.
    const facts = (token, k) => {
      const t = textNow();
      const [gap, bound] = [t.gap[token][at.lambda][k], t.bound[token][at.lambda]];
      const [l0, error] = [t.l0[token][at.lambda][k], t.error[token][at.lambda][k]];
      return { l0, error, gap, J: bound + gap, share: gap / (bound + gap) };
    };

    // New choices: the lists, the sliders' ends, the tokens.
    async function fill() {
      const chosen = at.model;
      files[chosen] ??= await load(chosen);
      if (at.model !== chosen) return; // another one was chosen meanwhile
      const data = fileNow();
      const middle = (saeNow().lambdas.length - 1) / 2;
      at.lambda ??= middle;
      at.steps ??= data.steps.indexOf(+box.dataset.steps);
      const option = ([value, label], chosen) => make("option", { value, selected: value === chosen }, label);
      const list = (select, words, chosen) => select.replaceChildren(...words.map((entry) => option(entry, chosen)));
      list(model, Object.entries(models), at.model);
      list(sae, data.saes.map((s, i) => [i, s.label]), at.sae);
      list(text, saeNow().texts.map((t, i) => [i, `${t.tokens.slice(0, 6).join("").trim()} …`]), at.text);
      [lambda.max, lambda.value] = [saeNow().lambdas.length - 1, at.lambda];
      [steps.max, steps.value] = [data.steps.length - 1, at.steps];
      tokens.replaceChildren(
        make("legend", {}, "Token: click one, or use the arrow keys"),
        ...textNow().tokens.map((token, i) => {
          const [space, word] = [/^\s/.test(token) && i ? " " : "", visible(token)];
          if (i < first()) return make("span", { className: "left-out", title: "left out of the evaluation" }, word);
          const radio = make("input", { type: "radio", name: "explorer-token", value: i - first() });
          radio.checked = i - first() === at.token;
          radio.addEventListener("change", () => ((at.token = +radio.value), (at.latent = null), show()));
          return make("label", { className: space ? "spaced" : "" }, radio, make("span", {}, word));
        }),
      );
      show();
    }

    // Everything that follows from token, lambda and steps.
    function show() {
      const [t, shown] = [textNow(), kinds()];
      const word = visible(t.tokens[at.token + first()]);
      const factor = saeNow().lambdas[at.lambda] / saeNow().lambdas[(saeNow().lambdas.length - 1) / 2];
      const about = Math.abs(factor - 1) < 1e-3 ? "L0 matched" : `${number(factor)} × matched`;
      lambdaValue.value = `${number(saeNow().lambdas[at.lambda])} (${about})`;
      stepsValue.value = `${fileNow().steps[at.steps]}`;
      lambda.setAttribute("aria-valuetext", lambdaValue.value);
      steps.setAttribute("aria-valuetext", stepsValue.value);

      const shares = t.gap.map((_, i) => facts(i, 0).share);
      const largest = Math.max(...shares);
      tokens.querySelectorAll("label > span").forEach((span, i) => {
        span.style.background = `rgba(176,68,26,${(0.06 * Math.round((10 * shares[i]) / largest)).toFixed(2)})`;
        span.title = `gap of the encoder's code: ${percent(shares[i])} of J`;
      });
      const ramp = ["background: gap of the encoder's code, 0 % ", part("ramp", "span"), ` ${percent(largest)} of J`];
      scale.replaceChildren(...ramp);
      const mean = (k, key) => sum(t.gap.map((_, i) => facts(i, k)[key])) / t.gap.length;
      const total = (k) => percent(mean(k, "gap") / mean(k, "J"));
      whole.textContent =
        `All tokens of the text: ${number(mean(0, "l0"))} nonzeros by the encoder, ` +
        `${number(mean(shown[2].k, "l0"))} at the optimum; gap ${total(0)} of J by the encoder, ` +
        `${total(at.steps)} after ${shown[1].words}.`;

      const rows = shown.map((kind) => ({ ...kind, ...facts(at.token, kind.k) }));
      const heads = ["", "nonzeros", "error, of ‖x‖²", "J", "gap, of J"].map((h) => make("th", { scope: "col" }, h));
      const lines = rows.map((row) => {
        const head = make("th", { scope: "row" }, part(`key ${row.name}`, "span"), row.words);
        const cells = [String(row.l0), percent(row.error), number(row.J), percent(row.share)];
        return make("tr", {}, head, ...cells.map((cell) => make("td", {}, cell)));
      });
      const caption = make("caption", {}, `Codes of “${word}”`);
      numbers.replaceChildren(caption, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
      showCodes(t, shown, word);
      showDescent(word);
      said.textContent =
        `“${word}”, λ ${lambdaValue.value}: ` +
        rows.map((row) => `${row.words} ${row.l0} nonzeros, gap ${percent(row.share)}`).join("; ") + ".";
    }

    // A row a latent, a bar a kind of codes; the latent's button shows where else it fires.
    function showCodes(t, shown, word) {
      const [z, latents, unit] = [t.z[at.token][at.lambda], t.latents[at.token], saeNow().unit];
      const largest = Math.max(...t.z[at.token].flat(2));
      const places = Math.max(0, -Math.round(Math.log10(unit)));
      const value = (kind, j) => z[kind.k][j];
      const strength = (j) => Math.max(...shown.map((kind) => value(kind, j)));
      const order = latents.map((_, j) => j).sort((a, b) => strength(b) - strength(a));
      codes.replaceChildren(
        make("caption", {}, `The ${latents.length} latents with the largest codes of “${word}”, at any λ: code z`),
        make("tbody", {}, ...latents.map((id, j) => {
          const name = saeNow().latents[id].words || "fires nowhere else";
          const button = make("button", { type: "button" }, make("b", {}, String(id)), ` ${name}`);
          button.setAttribute("aria-pressed", at.latent === id);
          button.addEventListener("click", () => {
            at.latent = id;
            codes.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button));
            showCards([id]);
            said.textContent = cards.querySelector("p").textContent;
          });
          const bars = shown.map((kind) => {
            const words = `${kind.words} ${(value(kind, j) * unit).toFixed(places)}`;
            const bar = part(`bar ${kind.name}`, "i", { title: words });
            bar.style.width = `${(100 * value(kind, j)) / largest}%`;
            return bar;
          });
          const spoken = make("span", { className: "unseen" }, bars.map((bar) => bar.title).join(", "));
          return make("tr", {}, make("th", { scope: "row" }, button), make("td", {}, ...bars, spoken));
        })),
      );
      showCards(at.latent === null ? order.slice(0, 3).map((j) => latents[j]) : [at.latent]);
    }

    // Where else latents fire: rate, and contexts with the token in bold and the code in front.
    function showCards(ids) {
      const whose = at.latent === null ? "Where its three strongest latents fire" : "Where this latent fires";
      cards.replaceChildren(make("h3", {}, `${whose} elsewhere`));
      for (const id of ids) {
        const { words, rate, contexts } = saeNow().latents[id];
        const where = `${saeNow().searched.toLocaleString("en")} tokens of other text`;
        const about = `${words && `: ${words}`}. Fires on ${percent(rate)} of ${where}.`;
        const quotes = contexts.map(([value, before, token, after]) => {
          const [head, bold] = [make("span", {}, number(value)), make("b", {}, oneLine(token))];
          return make("li", {}, head, ` … ${oneLine(before)}`, bold, `${oneLine(after)} …`);
        });
        cards.append(make("p", {}, make("b", {}, `Latent ${id}`), about), make("ul", {}, ...quotes));
      }
    }

    // The gap against steps: a logarithmic axis of shares, a place for each number of steps.
    function showDescent(word) {
      const marks = fileNow().steps;
      const shares = marks.map((_, k) => Math.max(facts(at.token, k).share, 1e-5));
      const [left, right, top, bottom] = [72, 344, 12, 168];
      const x = (k) => left + ((right - left) * k) / (marks.length - 1);
      const y = (share) => top + ((bottom - top) * -Math.log10(share)) / 5;
      const label = (px, py, words, anchor) => draw("text", { x: px, y: py, "text-anchor": anchor }, words);
      const spoken = marks.map((m, k) => `${percent(facts(at.token, k).share)} after ${m}`).join(", ");
      const svg = draw("svg", { viewBox: "0 0 360 210", role: "img" });
      svg.setAttribute("aria-label", `Gap of “${word}” as a share of J: ${spoken} ISTA steps.`);
      for (const power of [0, 1, 2, 3, 4, 5]) {
        const [height, share] = [y(10 ** -power), +(100 * 10 ** -power).toFixed(3)];
        svg.append(draw("line", { class: "grid", x1: left, x2: right, y1: height, y2: height }));
        svg.append(label(left - 6, height + 4, `${power > 4 ? "≤ " : ""}${share} %`, "end"));
      }
      marks.forEach((m, k) => svg.append(label(x(k), bottom + 18, String(m), "middle")));
      svg.append(label((left + right) / 2, bottom + 37, "ISTA steps from the encoder's code", "middle"));
      svg.append(draw("polyline", { points: shares.map((s, k) => `${x(k)},${y(s)}`).join(" ") }));
      svg.append(draw("circle", { class: "encoder", cx: x(0), cy: y(shares[0]), r: 4 }));
      svg.append(draw("circle", { class: "steps", cx: x(at.steps), cy: y(shares[at.steps]), r: 6 }));
      descent.replaceChildren(make("figcaption", {}, `Gap of “${word}” after ISTA steps, share of J, at this λ`), svg);
    }

    files[at.model] = await load(at.model); // until then, the still state is there
    const sides = make("div", { className: "sides" }, codes, make("div", {}, descent, cards));
    box.replaceChildren(
      make("div", { className: "choices" }, modelLabel, saeLabel, textLabel),
      tokens, scale, make("div", { className: "slides" }, lambdaLabel, stepsLabel), whole, numbers, said, sides,
    );
    box.dataset.live = "";
    await fill();
  }

  open(document.getElementById("explorer")); // this script is deferred: the element is there
})();
