"use strict";

// What the page on experiments adds to browser.js.
const KIND_NAMES = {
  differ: "settings differ",
  seeds: "seeds differ",
  wrong: "all wrong",
  right: "all right",
};

// A setting is right about an item if more than half of its seeds are.
function isRight(record, name) {
  const teacher = record.teachers.find((each) => `t ${each.name}` === name);
  if (teacher) return teacher.right;
  const found = record.answers.find(([setting]) => `s ${setting}` === name);
  if (!found) return null;
  const total = found[1].reduce((sum, [, seeds]) => sum + seeds, 0);
  return found[1].reduce((sum, [, seeds, right]) => sum + (right ? seeds : 0), 0) > total / 2;
}

function answerers() {
  const teachers = new Set(records.flatMap((record) => record.teachers.map((each) => each.name)));
  return [
    ...[...teachers].map((name) => [`t ${name}`, `teacher: ${name}`]),
    ...data.settings.map((name, i) => [`s ${i}`, name]),
  ];
}

function filters() {
  const who = answerers();
  const found = {
    kind: {
      name: "Agreement",
      options: valueOptions(records.map((record) => record.kind), (kind) => KIND_NAMES[kind]),
      matches: (record, wanted) => record.kind === wanted,
    },
    rightly: { name: "Right", options: who, matches: (record, wanted) => isRight(record, wanted) === true },
    wrongly: { name: "Wrong", options: who, matches: (record, wanted) => isRight(record, wanted) === false },
    label: {
      name: "Gold label",
      options: valueOptions(records.map((record) => record.label)),
      matches: (record, wanted) => record.label === wanted,
    },
  };
  if (data.datasets.length > 1)
    found.dataset = {
      name: "Dataset",
      options: valueOptions(records.map((record) => record.dataset)),
      matches: (record, wanted) => record.dataset === wanted,
    };
  return found;
}

const mark = (right) =>
  element("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong");

function answerRows(record) {
  const rows = [];
  for (const [setting, answers] of record.answers) {
    const total = answers.reduce((sum, [, seeds]) => sum + seeds, 0);
    answers.forEach(([text, seeds, right], i) => rows.push(element("tr", {},
      element("td", {}, i ? "" : data.settings[setting]),
      element("td", {}, text.trim() ? marked(text) : element("span", { class: "quiet" }, "(nothing)")),
      element("td", {}, mark(right)),
      element("td", {}, `${seeds} of ${total}`))));
    for (const [explainer, seed, text] of record.explained)
      if (explainer === setting)
        rows.push(element("tr", {},
          element("td", {}, ""),
          element("td", {}, element("div", { class: "rationale-text text-block" },
            text.trim() ? marked(text) : "(no rationale)")),
          element("td", {}, "its own rationale"),
          element("td", {}, `seed ${seed}`)));
  }
  for (const teacher of record.teachers)
    rows.push(element("tr", {},
      element("td", {}, `teacher: ${teacher.name}`),
      element("td", {},
        teacher.label === null ? element("span", { class: "quiet" }, "none") : marked(teacher.label),
        teacher.rationale.trim() ? element("div", { class: "rationale-text text-block" }, marked(teacher.rationale)) : null),
      element("td", {}, mark(teacher.right)),
      element("td", {}, "")));
  return rows;
}

function showItem(record) {
  const chips = { differ: "warn", seeds: "warn", wrong: "bad", right: "good" };
  const head = ["who", "answer", "", "seeds"].map((name) => element("th", { scope: "col" }, name));
  return [
    element("div", { class: "record-head" }, element("h3", {}, marked(record.id)),
      data.datasets.length > 1 ? element("span", { class: "chip" }, record.dataset) : null,
      element("span", { class: `chip ${chips[record.kind]}` }, KIND_NAMES[record.kind])),
    element("pre", { class: "text-block input-block" }, marked(record.input)),
    facts([["Gold label", record.label]]),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...answerRows(record)))),
  ];
}

startBrowser({
  filters: filters(),
  nouns: ["item", "items"],
  note: (record) => KIND_NAMES[record.kind],
  show: showItem,
  texts: (record) => [record.id, record.input, record.label,
    ...record.answers.flatMap(([, answers]) => answers.map(([text]) => text)),
    ...record.explained.map(([, , text]) => text),
    ...record.teachers.flatMap((each) => [each.label || "", each.rationale])],
  held: records.length === data.total
    ? `All ${count(data.total)} test items are on this page.`
    : `This page holds ${count(records.length)} of ${count(data.total)} test items, those on which settings differ first.`,
});
