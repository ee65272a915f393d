"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const divs = [...document.querySelectorAll("[data-figure]")];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  let printing = false; // the page's own colours are then those of paper, before a style says so
  const paper = {"--ink": "#000000", "--line": "#aaaaaa", "--panel": "#ffffff"};
  const colour = (name) => printing ? paper[name] : getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // What the page's colours make of a layout: as names of properties, for Plotly.relayout.
  const themed = (layout) => {
    const ink = colour("--ink"), line = colour("--line");
    const found = {"font.color": ink, "font.family": "system-ui, sans-serif",
      "hoverlabel.bgcolor": colour("--panel"), "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink};
    for (const axis of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)))
      for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) found[`${axis}.${part}`] = line;
    return found;
  };
  const set = (layout, path, value) => {
    const parts = path.split("."), last = parts.pop();
    let place = layout;
    for (const part of parts) place = place[part] ??= {};
    place[last] = value;
  };

  // Plotly reads markup in a hover text: a sentence is text, in lines.
  const wrapped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
    .replace(/(.{60,76}) /g, "$1<br>");
  const told = (data, steps) => {
    for (const trace of data.filter((each) => each.meta === "steps"))
      trace.hovertext = trace.customdata.map((step) => wrapped(steps[step].text));
  };
  // A title too long for a narrow figure takes two lines.
  const folded = (title) => {
    const space = title.length > 26 ? title.indexOf(" ", title.length / 2 - 4) : -1;
    return space < 0 ? title : `${title.slice(0, space)}<br>${title.slice(space + 1)}`;
  };

  // Until a figure is wanted Plotly is text: a page opens without it.
  const load = () => {
    if ("Plotly" in window) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const draw = (div) => {
    if (div.dataset.drawn) return;
    load();
    div.dataset.drawn = "1";
    const {data, layout} = read(div.dataset.figure);
    const list = document.getElementById(`list-${div.id}`);
    if (list) told(data, JSON.parse(list.textContent));
    for (const [path, value] of Object.entries(themed(layout))) set(layout, path, value);
    const narrow = div.clientWidth < 600;
    if (narrow) {
      layout.font.size = 11;
      layout.dragmode = false; // a finger scrolls the page
      // The legend takes many lines: below the figure it hides nothing.
      Object.assign(layout.legend ??= {}, {y: -0.1, yanchor: "top", font: {size: 10}});
      for (const axis of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)))
        if (layout[axis].title?.text) layout[axis].title = {text: folded(layout[axis].title.text), font: {size: 11}};
      const lines = data.filter((trace) => trace.showlegend !== false && trace.type !== "heatmap" && trace.name && trace.visible !== false).length;
      layout.height += 30 + 16 * lines;
      (layout.margin ??= {}).b = 78 + 16 * lines;
      layout.legend.y = -76 / (layout.height - layout.margin.b - 12);
    }
    Plotly.newPlot(div, data, layout, {responsive: true, displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d"], displayModeBar: narrow ? false : "hover"});
  };
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const {target, isIntersecting} of entries) if (isIntersecting) {
        seen.unobserve(target);
        setTimeout(() => draw(target)); // one at a time, each after the page has answered its reader
      }
    }, {rootMargin: "400px"});
    addEventListener("load", () => divs.forEach((div) => seen.observe(div)));
  } else divs.forEach(draw);

  for (const chooser of document.querySelectorAll("[data-choose]"))
    chooser.addEventListener("change", () => {
      const div = document.getElementById(chooser.dataset.choose);
      draw(div);
      const range = div.layout.meta?.ranges?.[chooser.value];
      Plotly.update(div, {visible: div.data.map((trace) => trace.meta === chooser.value)},
        range ? {"xaxis.range": range} : {});
    });

  for (const slider of document.querySelectorAll("[data-steps]")) {
    const steps = read(`list-${slider.dataset.steps}`);
    slider.addEventListener("input", () => {
      const step = steps[Number(slider.value)], div = document.getElementById(slider.dataset.steps);
      document.getElementById(`told-${slider.dataset.steps}`).textContent = step.text;
      slider.setAttribute("aria-valuetext", step.name);
      draw(div);
      Plotly.relayout(div, {shapes: [{type: "line", xref: "x", yref: "paper", x0: step.x, x1: step.x, y0: 0, y1: 1,
        line: {color: colour("--ink"), width: 1.5}}]});
    });
  }

  const recolour = () => divs.filter((div) => div.dataset.drawn)
    .forEach((div) => Plotly.relayout(div, themed(div.layout)));
  dark.addEventListener("change", recolour);
  addEventListener("afterprint", () => { printing = false; recolour(); });
  addEventListener("beforeprint", () => {
    printing = true;
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    divs.forEach(draw);
    recolour();
  });
})();
