"use strict";
// Shows the trials one question at a time, keeps the answers in this browser, and saves them to a file.

const ballot = JSON.parse(document.getElementById("ballot").textContent);
const questions = new Map(ballot.questions);
const steps = ballot.trials.flatMap((trial) =>
  (trial.images.length > 1 ? [...questions.keys()] : ["publish"]).map((question) => ({ trial, question })));
const PAIR = [["left", "Left", "ArrowLeft", "←"], ["equal", "Equal", "ArrowDown", "↓"], ["right", "Right", "ArrowRight", "→"]];
const SINGLE = [[false, "No", "ArrowLeft", "←"], [true, "Yes", "ArrowRight", "→"]];
const STORE = `orchestrate-vote-${ballot.id}`;
const [start, vote, end, foot] = ["start", "vote", "end", "foot"].map((id) => document.getElementById(id));
const by = (id) => document.getElementById(id);
let sheet = null;
let at = 0;

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {}; // a browser without storage: votes last as long as the page
  }
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify({ ...stored(), [sheet.voter]: sheet }));
  } catch { /* as above */ }
}

function answer({ trial, question }) {
  return sheet.answers[trial.id]?.[question];
}

function choices() {
  return steps[at]?.trial.images.length > 1 ? PAIR : SINGLE;
}

function show() {
  const done = at >= steps.length;
  vote.hidden = done;
  end.hidden = !done;
  by("back").disabled = at === 0;
  by("saved").textContent = "";
  if (done) return by("save").focus();
  const { trial, question } = steps[at];
  by("progress").max = steps.length;
  by("progress").value = at;
  by("count").textContent = `${at + 1} of ${steps.length}`;
  by("question").textContent = questions.get(question) ?? "Would you publish this image?";
  by("prompt").textContent = trial.prompt;
  by("images").className = trial.images.length > 1 ? "" : "single";
  for (const [id, image] of [["left", trial.images[0]], ["right", trial.images[1]]]) {
    by(id).parentElement.hidden = !image;
    by(id).alt = trial.images.length > 1 ? `${id} image` : "the image";
    if (image) by(id).src = `data:image/webp;base64,${image}`;
  }
  by("choices").replaceChildren(...choices().map(([value, text, , key]) => {
    const button = document.createElement("button");
    const hint = document.createElement("kbd");
    hint.textContent = key;
    button.type = "button";
    button.append(text, " ", hint);
    button.setAttribute("aria-pressed", String(answer(steps[at]) === value));
    button.addEventListener("click", () => choose(value));
    return button;
  }));
}

function choose(value) {
  const { trial, question } = steps[at];
  sheet.answers[trial.id] = { ...sheet.answers[trial.id], [question]: value };
  sheet.revision += 1;
  keep();
  at += 1;
  show();
}

function back() {
  if (at > 0) at -= 1;
  show();
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(sheet)], { type: "application/json" }));
  link.download = `votes-${ballot.id}-${sheet.session.slice(0, 8)}.json`;
  link.click();
  by("saved").textContent = `Saved ${link.download}: ${Object.keys(sheet.answers).length} of ${ballot.trials.length} answered.`;
}

start.addEventListener("submit", (event) => {
  event.preventDefault();
  const voter = by("voter").value.trim();
  if (!voter) return;
  const session = [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
  const known = stored();
  sheet = (Object.hasOwn(known, voter) && known[voter]) || { ballot: ballot.id, session, voter, revision: 0, answers: {} };
  at = steps.findIndex((step) => answer(step) === undefined);
  if (at < 0) at = steps.length;
  start.hidden = true;
  foot.hidden = false;
  show();
});

document.addEventListener("keydown", (event) => {
  if (!sheet || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const chosen = at < steps.length && choices().find(([, , key]) => key === event.key);
  if (chosen) choose(chosen[0]);
  else if (event.key === "Backspace") back();
  else if (event.key.toLowerCase() === "s") save();
  else return;
  event.preventDefault();
});

by("back").addEventListener("click", back);
by("save").addEventListener("click", save);
start.hidden = false;
by("voter").focus();
