"use strict";

// Everything shown is set as text: nothing in an answer can become markup.
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.0995 ? 1 : 2)} %`;
let model = null;
let asking = false;

const tokenIsNeeded = !byId("token-field").hidden;
const headers = () => {
  const made = { "Content-Type": "application/json" };
  if (tokenIsNeeded) made.Authorization = `Bearer ${byId("token").value.trim()}`;
  return made;
};

function request() {
  const offered = model ? model.outputs : ["label"];
  const outputs = offered.filter(
    (name) => name !== "rationale" || byId("rationale").checked || offered.length === 1);
  return { input: byId("input").value, outputs, scores: true };
}

// ------------------------------------------------------------------ drawing

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function bar(share, isBest) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const draw = (className, width) => {
    const made = document.createElementNS(space, "rect");
    const properties = { class: className, width: `${width}%`, height: "100%", rx: 3 };
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    svg.append(made);
  };
  draw("track", 100);
  if (share > 0) draw(isBest ? "fill best" : "fill", Math.max(0.6, 100 * share));
  return svg;
}

function drawScores(prediction) {
  const scores = Object.entries(prediction.label_scores || {});
  scores.sort(([, a], [, b]) => (b ?? -1) - (a ?? -1));
  byId("scores").replaceChildren(...scores.slice(0, 50).flatMap(([name, share]) => [
    element("span", "name", name),
    bar(share ?? 0, name === prediction.label),
    element("span", "number", share === null ? "–" : percent(share)),
  ]));
}

function draw(prediction, milliseconds) {
  const { label, label_score: score, rationale } = prediction;
  byId("label").textContent = label ?? "";
  byId("score").textContent =
    typeof score === "number" && !prediction.label_scores ? `probability ${percent(Math.exp(score))}` : "";
  byId("time").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
  byId("truncated").hidden = !prediction.truncated;
  byId("unknown").hidden = !prediction.unknown_tokens;
  byId("unknown").textContent =
    `Tokens of the input that the student's vocabulary does not know: ${prediction.unknown_tokens}. It read the same for all of them.`;
  drawScores(prediction);
  byId("why").hidden = typeof rationale !== "string";
  byId("rationale-text").textContent = rationale || "(empty)";
  show("prediction");
}

function show(shown) {
  for (const id of ["empty", "error", "prediction"]) byId(id).hidden = id !== shown;
}

function fail(reason) {
  byId("error").textContent = reason;
  show("error");
}

function drawCurl() {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -s ${quoted(new URL("v1/predict", document.baseURI).href)}`,
    `  -H ${quoted("Content-Type: application/json")}`];
  if (tokenIsNeeded) lines.push('  -H "Authorization: Bearer $DSS_SERVE_TOKEN"');
  lines.push(`  -d ${quoted(JSON.stringify(request()))}`);
  byId("curl").textContent = lines.join(" \\\n");
}

// ------------------------------------------------------------------- asking

async function json(path, options) {
  const answer = await fetch(path, options);
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  throw new Error(`${answer.status}: ${found.error || found.status || answer.statusText}`);
}

async function predict(event) {
  event.preventDefault();
  if (asking) return;
  asking = byId("send").disabled = true;
  const start = performance.now();
  try {
    const found = await json("v1/predict",
      { method: "POST", headers: headers(), body: JSON.stringify(request()) });
    draw(found.predictions[0], performance.now() - start);
  } catch (error) {
    fail(error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    asking = byId("send").disabled = false;
  }
}

async function describe() {
  if (tokenIsNeeded && !byId("token").value.trim()) return;
  try {
    model = await json("v1/model", { headers: headers() });
  } catch (error) {
    fail(error.message);
    return;
  }
  if (!byId("error").hidden) show("empty");
  const { name, ...facts } = model.model;
  byId("name").textContent = name;
  byId("facts").textContent = Object.entries(facts).map(([key, value]) => `${key} ${value}`).join(" · ");
  byId("input").maxLength = model.limits.input_chars;
  if (!byId("input").value) byId("input").value = model.example;
  byId("rationale").parentElement.hidden = model.outputs.length < 2;
  drawCurl();
}

async function watchHealth() {
  try {
    const answer = await fetch("healthz");
    const chip = byId("health");
    chip.textContent = answer.ok ? "ready" : (await answer.json()).status;
    chip.className = answer.ok ? "chip good" : "chip bad";
    if (!answer.ok) setTimeout(watchHealth, 1000);
  } catch {
    byId("health").textContent = "unreachable";
    byId("health").className = "chip bad";
  }
}

byId("form").addEventListener("submit", predict);
byId("form").addEventListener("input", drawCurl);
byId("token").addEventListener("change", describe);
byId("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict(event);
});
byId("copy").addEventListener("click", async () => {
  let text = "Copied";
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
  } catch {
    getSelection().selectAllChildren(byId("curl"));
    text = "Selected: press Ctrl C";
  }
  byId("copy").textContent = text;
  setTimeout(() => { byId("copy").textContent = "Copy"; }, 2000);
});
byId("metrics-link").hidden = tokenIsNeeded;
drawCurl();
describe();
watchHealth();
