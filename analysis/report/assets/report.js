"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const models = data.models;
  const ink = "#1c2430", grid = "#e6eaef";
  const palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#999999"];
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const font = { family: "system-ui, sans-serif", size: 13, color: ink };
  const LOGARITHMIC = new Set(["parameters", "seconds", ...Object.keys(data.transforms)]);

  // Plotly reads a little HTML in texts; names must stay what they are.
  const text = (value) => String(value ?? "–").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (value) => (value === null || value === undefined ? "–" : Number(value).toPrecision(3));
  const element = (id) => document.getElementById(id);
  const label = (name) => name.replace(/_/g, " ");

  function options(select, entries, chosen) {
    for (const [value, words] of entries) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = words;
      option.selected = value === chosen;
      select.appendChild(option);
    }
  }

  function axis(name, title) {
    const log = LOGARITHMIC.has(name);
    return {
      title: { text: text(title), standoff: 10 }, type: log ? "log" : "linear", gridcolor: grid,
      zeroline: false, linecolor: "#9aa5b1", showline: true, ticks: "outside", tickcolor: "#9aa5b1",
      exponentformat: "power", dtick: log && Object.hasOwn(data.transforms, name) ? 1 : undefined,
    };
  }

  function scatter() {
    const x = element("scatter-x").value, y = element("scatter-y").value;
    const by = element("scatter-colour").value, bars = element("scatter-bars").checked;
    const titles = { ...data.quantities };
    for (const [name, unit] of Object.entries(data.transforms)) titles[name] = `${label(name)}: ${unit}`;
    const groups = new Map();
    models.model.forEach((_, i) => {
      if (models[x][i] === null || models[y][i] === null) return;
      const key = models[by][i] || "not said";
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    });
    const keys = [...groups.keys()].sort((a, b) => groups.get(b).length - groups.get(a).length);
    const traces = keys.map((key, number) => {
      const rows = groups.get(key), pick = (name) => rows.map((i) => models[name][i]);
      const colour = (by === "class" && data.classColours[key]) || palette[Math.min(number, palette.length - 1)];
      const trace = {
        type: "scatter", mode: "markers", name: text(`${key} (${rows.length})`), x: pick(x), y: pick(y),
        marker: { color: colour, size: 9, opacity: 0.82, line: { color: "#fff", width: 1 } },
        text: rows.map((i) => `<b>${text(models.model[i])}</b><br>${text(models.class[i])}` +
          `<br>${text(titles[x])}: ${short(models[x][i])}<br>${text(titles[y])}: ${short(models[y][i])}`),
        hovertemplate: "%{text}<extra></extra>",
      };
      if (bars && models[`${y}_low`]) {
        const ends = (name, sign) => rows.map((i) => models[name][i] === null ? 0 : sign * (models[name][i] - models[y][i]));
        trace.error_y = { type: "data", symmetric: false, array: ends(`${y}_high`, 1),
          arrayminus: ends(`${y}_low`, -1), thickness: 1, width: 0, color: colour };
      }
      return trace;
    });
    Plotly.react("scatter", traces, {
      font, margin: { l: 80, r: 20, t: 14, b: 60 }, hovermode: "closest", plot_bgcolor: "#fff",
      xaxis: axis(x, titles[x]), yaxis: axis(y, titles[y]),
      legend: { orientation: "h", y: 1.06, x: 0 }, hoverlabel: { bgcolor: "#fff", align: "left", font },
    }, config);
  }

  function startScatter() {
    const transforms = Object.keys(data.transforms).map((t) => [t, label(t)]);
    const quantities = Object.entries(data.quantities);
    const first = ["top1", "parameters"].find((q) => data.quantities[q]) ?? data.whole[0];
    options(element("scatter-x"), [...quantities, ...transforms], first);
    options(element("scatter-y"), transforms, data.whole[0]);
    for (const id of ["x", "y", "colour", "bars"]) element(`scatter-${id}`).addEventListener("change", scatter);
    scatter();
  }

  function layers() {
    const model = element("layers-model").value, generator = element("layers-generator").value;
    const found = data.layers[model]?.[generator];
    const kinds = found ? [...new Set(found.kind)] : [];
    const traces = kinds.map((kind) => {
      const rows = found.kind.map((k, i) => (k === kind ? i : -1)).filter((i) => i >= 0);
      return {
        type: "bar", name: text(kind), x: rows, y: rows.map((i) => found.share[i]), width: 0.92,
        marker: { color: data.kindColours[kind] ?? "#999999" },
        text: rows.map((i) => `<b>${text(found.module[i])}</b><br>${text(kind)}<br>${found.share[i].toFixed(2)} %`),
        textposition: "none", hovertemplate: "%{text}<extra></extra>",
      };
    });
    Plotly.react("layers", traces, {
      font, margin: { l: 70, r: 20, t: 14, b: 50 }, plot_bgcolor: "#fff", barmode: "relative",
      xaxis: { title: { text: "modules, in the order of their calls" }, showticklabels: false, showgrid: false, zeroline: false },
      yaxis: { title: { text: "share of ‖L f‖² (%)" }, gridcolor: grid, zerolinecolor: "#5b6675" },
      legend: { orientation: "h", y: 1.1, x: 0 }, hoverlabel: { bgcolor: "#fff", align: "left", font },
    }, config);
  }

  function startLayers() {
    const names = Object.keys(data.layers), generators = Object.keys(data.layers[names[0]]);
    options(element("layers-model"), names.map((n) => [n, n]), names[0]);
    options(element("layers-generator"), generators.map((g) => [g, label(g)]), generators[0]);
    for (const id of ["model", "generator"]) element(`layers-${id}`).addEventListener("change", layers);
    layers();
  }

  function kinds() {
    const tables = Object.entries(data.kinds.table);
    const order = [...new Set(tables.flatMap(([, t]) => t.kind))];
    const traces = tables.map(([generator, table], number) => {
      const at = (kind, column) => { const i = table.kind.indexOf(kind); return i < 0 ? null : table[column][i]; };
      const share = order.map((k) => at(k, "share"));
      const gap = (column, sign) => order.map((k, i) => (at(k, column) === null ? 0 : sign * (at(k, column) - share[i])));
      return {
        type: "bar", name: label(generator), x: order, y: share,
        marker: { color: palette[number % palette.length] },
        error_y: { type: "data", symmetric: false, array: gap("high", 1), arrayminus: gap("low", -1), thickness: 1.2, width: 3, color: "#5b6675" },
        hovertemplate: `<b>%{x}</b>, ${text(label(generator))}<br>%{y:.1f} %<extra></extra>`,
      };
    });
    Plotly.react("kinds", traces, {
      font, margin: { l: 70, r: 20, t: 14, b: 50 }, plot_bgcolor: "#fff", barmode: "group",
      xaxis: { gridcolor: grid }, yaxis: { title: { text: "mean share of ‖L f‖² (%)" }, gridcolor: grid, zerolinecolor: "#5b6675" },
      legend: { orientation: "h", y: 1.1, x: 0 }, hoverlabel: { bgcolor: "#fff", font },
    }, config);
  }

  function agreement() {
    const a = data.agreement;
    element("agreement-block").hidden = false;
    const names = a.metric.map((m, i) => text(`${label(m)}: ${a.other_transform[i]} (${a.other_output[i]})`));
    const groups = [...new Set(a.transform)];
    const traces = groups.map((transform, number) => {
      const rows = a.transform.map((t, i) => (t === transform ? i : -1)).filter((i) => i >= 0);
      const pick = (list) => rows.map((i) => list[i]);
      const rho = pick(a.rho);
      return {
        type: "scatter", mode: "markers", name: label(transform), x: rho, y: pick(names),
        marker: { color: palette[number % palette.length], size: 11 },
        error_x: { type: "data", symmetric: false, array: pick(a.high).map((h, i) => h - rho[i]),
          arrayminus: pick(a.low).map((l, i) => rho[i] - l), thickness: 1.4, width: 3 },
        text: pick(a.models).map((n) => `${n} models`), hovertemplate: "%{y}<br>ρ = %{x:.2f}, %{text}<extra></extra>",
      };
    });
    element("agreement").style.height = `${130 + 30 * new Set(names).size}px`;
    Plotly.react("agreement", traces, {
      font, margin: { l: 20, r: 20, t: 14, b: 50 }, plot_bgcolor: "#fff",
      xaxis: { range: [-1.05, 1.05], title: { text: "Spearman's ρ with the error" }, gridcolor: grid, zerolinecolor: "#5b6675" },
      yaxis: { automargin: true, gridcolor: grid }, legend: { orientation: "h", y: 1.15, x: 0 }, hoverlabel: { bgcolor: "#fff", font },
    }, config);
  }

  function curves() {
    const found = data.curves[element("curves-transform").value];
    const classes = Object.fromEntries(data.models.model.map((m, i) => [m, data.models.class[i]]));
    const traces = found.curves.map(({ model, h, share }) => ({
      type: "scatter", mode: "lines+markers", name: text(model), x: h, y: share, showlegend: false,
      line: { color: data.classColours[classes[model]] || data.classColours.other, width: 1.5 }, marker: { size: 5 },
      hovertemplate: `${text(model)}<br>h = %{x} ${text(found.unit)}: %{y:.2f} of LEE<extra></extra>`,
    }));
    Plotly.react("curves", traces, {
      font, margin: { l: 60, r: 20, t: 14, b: 50 }, plot_bgcolor: "#fff",
      xaxis: { type: "log", title: { text: `step h (${text(found.unit)})` }, gridcolor: grid, tickvals: found.curves[0].h, tickformat: ".2~g" },
      yaxis: { title: { text: "LEE(h) ÷ LEE" }, gridcolor: grid, rangemode: "tozero" },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.5, y1: 0.5, line: { color: "#5b6675", dash: "dot", width: 1 } }],
      hoverlabel: { bgcolor: "#fff", font },
    }, config);
  }

  function startCurves() {
    element("curves-block").hidden = false;
    const names = Object.keys(data.curves);
    options(element("curves-transform"), names.map((n) => [n, label(n)]), names[0]);
    element("curves-transform").addEventListener("change", curves);
    curves();
  }

  startScatter();
  if (data.curves) startCurves();
  if (data.layers && Object.keys(data.layers).length) { startLayers(); kinds(); }
  if (data.agreement) agreement();
})();
