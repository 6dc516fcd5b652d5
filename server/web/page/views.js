// The status, drawn. One render call per status; nothing here talks to the network.

import {Chart} from "/chart.js";
import {byId, el, mirror, setClass, setText, show} from "/dom.js";
import * as f from "/format.js";

const states = {
  JOB_STATE_UNSPECIFIED: "unknown", WAITING: "waiting", RUNNING: "running", FINISHED: "finished", STOPPED: "stopped", FAILED: "failed",
};
const phases = {selecting: "Choosing clients", training: "Training", aggregating: "Combining updates", evaluating: "Evaluating"};
const roundsShown = 12;
// Beyond this many rounds the progress bar has no room for one thread per round.
const maxThreads = 120;

let status = null;
let receivedAt = 0;
let chosen = null;
let allRounds = false;

const accuracyChart = new Chart(byId("accuracy-chart"), {
  series: [{key: "accuracy", name: "Accuracy"}], bounds: [0, 1], fromZero: true, label: "Accuracy by round",
  format: (value, step = 0.001) => f.percent(value, step >= 0.01 ? 0 : 1), empty: "The curve starts with the first evaluation.",
});
const lossChart = new Chart(byId("loss-chart"), {
  series: [{key: "loss", name: "Held-out rows"}, {key: "train", name: "While training"}], bounds: [0, Infinity], fromZero: false, label: "Loss by round",
  format: (value, step = 0.001) => f.decimal(value, step >= 1 ? 0 : step >= 0.1 ? 1 : step >= 0.01 ? 2 : 3),
  empty: "The curve starts with the first round.",
});

byId("more").addEventListener("click", () => {
  allRounds = !allRounds;
  renderRounds(currentJob());
});

export function render(next) {
  status = next;
  receivedAt = performance.now();
  setText(byId("version"), status.version ?? "");
  show(byId("insecure"), status.insecure === true);
  const job = currentJob();
  renderJobs(job);
  show(byId("empty"), job === undefined);
  show(byId("job"), job !== undefined);
  renderClients(status.clients ?? []);
  renderEmpty(status.clients ?? []);
  renderRounds(job);
  renderSettings(job);
  if (job !== undefined) {
    renderHero(job);
    renderTiles(job);
    renderCharts(job);
  }
  const now = job?.rounds?.at(-1);
  document.title = job === undefined ? "Weft" :
      `${now?.accuracy === undefined ? "" : `${f.percent(now.accuracy)} \u00b7 `}round ${job.round}/${job.rounds_total} \u00b7 ${job.name}`;
}

// Times that pass without news from the coordinator.
export function tick() {
  if (status === null) return;
  for (const node of document.querySelectorAll("[data-since]")) {
    const since = Number(node.dataset.since);
    setText(node, since > 0 ? f.ago(serverNow() - since) : f.none);
  }
  const job = currentJob();
  if (job !== undefined) setText(byId("left"), timeLine(job));
}

function serverNow() {
  return Number(status.now_ms) + performance.now() - receivedAt;
}

// The chosen job, else the running one, else the newest.
function currentJob() {
  const jobs = status?.jobs ?? [];
  return jobs.find((job) => job.job_id === chosen) ?? jobs.find((job) => job.state === "RUNNING") ??
      [...jobs].sort((a, b) => Number(b.submitted_ms) - Number(a.submitted_ms))[0];
}

function renderJobs(current) {
  const jobs = [...status.jobs ?? []].sort((a, b) => Number(b.submitted_ms) - Number(a.submitted_ms));
  show(byId("jobs"), jobs.length > 1);
  mirror(byId("jobs"), jobs, (job) => job.job_id, (job) => {
    const button = el("button", {type: "button"}, el("span", {class: "dot", "aria-hidden": "true"}), el("span"));
    button.addEventListener("click", () => {
      chosen = job.job_id;
      render(status);
    });
    return button;
  }, (button, job) => {
    setClass(button, `job-tab ${states[job.state]}`);
    button.title = `${job.job_id}, ${states[job.state]}`;
    button.setAttribute("aria-pressed", String(job.job_id === current.job_id));
    setText(button.lastChild, job.name);
  });
}

// The last part of a path of either kind.
function baseName(path) {
  return (path ?? "").split(/[\\/]/).filter((part) => part !== "").at(-1) ?? "";
}

function renderHero(job) {
  setText(byId("job-name"), job.name);
  setText(byId("state"), states[job.state] ?? "unknown");
  setClass(byId("state"), `pill ${states[job.state]}`);
  const clients = (status.clients ?? []).filter((c) => c.connected).length;
  setText(byId("job-title"), `${job.state === "FINISHED" ? "Fine-tuned" : "Fine-tuning"} ${baseName(job.config?.base?.path) || "a frozen base"} on the data of ` +
      `${clients > 0 ? f.plural(clients, "client") : "its clients"}, without moving it`);
  setText(byId("how"), explanation(job));
  const ended = job.ended_ms > 0;
  setText(byId("round-text"), ended ? `${f.count(job.round)} of ${f.count(job.rounds_total)} rounds` :
      job.state === "WAITING" && Number(job.round) === 0 ? "Not started" : `Round ${f.count(Math.min(Number(job.round) + 1, Number(job.rounds_total)))} of ${f.count(job.rounds_total)}`);
  setText(byId("phase-text"), ended ? "" : phaseText(job));
  setText(byId("left"), timeLine(job));
  setText(byId("message"), job.message ?? "");
  show(byId("message"), (job.message ?? "") !== "");
  setClass(byId("message"), `message ${states[job.state]}`);
  show(byId("privacy"), job.privacy !== undefined);
  setText(byId("privacy"), job.privacy === undefined ? "" : privacyLine(job.privacy));
  setText(byId("best-key"), Number(job.best_round) > 0 ? `best so far: round ${job.best_round}` : "");
  renderCloth(job);
}

// What is learnt, and how, for someone who sees this for the first time.
function explanation(job) {
  const {task, adapter, aggregator} = job.config ?? {};
  const labels = task?.labels ?? [];
  const names = labels.length > 4 ? `${labels.slice(0, 3).join(", ")} and so on` : labels.join(", ");
  const form = adapter?.form === "lora" ? "LoRA" : adapter?.form ?? "";
  const rank = adapter?.config?.rank === undefined ? "" : ` of rank ${adapter.config.rank}`;
  const size = Number(job.adapter_parameters) > 0 ?
      ` (${f.count(job.adapter_parameters)} numbers, ${f.bytes(4 * Number(job.adapter_parameters))})` : "";
  const what = {causal_lm: "predict each next token", sentence_embedding: "tell which texts belong together"}[task?.type] ??
      (labels.length > 0 ? `give each ${task.type === "image_classification" ? "image" : "row"} one of ${f.plural(labels.length, "label")} (${names})` : "");
  return `${what === "" ? "" : `The task: ${what}. `}` +
      `The base stays frozen on every client. Each round the clients get a small ${form} adapter${rank}${size}, train it on their own ` +
      `rows and send back what has changed; the ${aggregator?.name ?? "aggregation"} rule combines the answers into the next one.`;
}

// What is spent, under which assumptions, and what the promise does not cover.
function privacyLine(privacy) {
  const rate = Number(privacy.sampling_rate);
  const sampling = rate < 1 ? `sampling rate ${f.exact(rate)} claimed` : "no amplification by sampling claimed";
  const bare = privacy.unprotected ?? [];
  return `Differential privacy: epsilon ${f.decimal(privacy.epsilon, 2)} of ${f.exact(privacy.epsilon_budget)} spent, delta ` +
      `${f.exact(privacy.delta)}, noise multiplier ${f.exact(privacy.noise_multiplier)}, ${sampling}.` +
      `${bare.length > 0 ? ` Shown here without noise, and so not covered: ${bare.join(", ")}.` : ""}`;
}

function phaseText(job) {
  const name = phases[job.phase] ?? "";
  const total = Number(job.phase_total);
  if (name === "" || total === 0) return name;
  const what = job.phase === "evaluating" ? "evaluations" : "updates";
  return `${name}: ${f.count(job.phase_done)} of ${f.count(total)} ${what} in`;
}

function timeLine(job) {
  const ran = Number(job.started_ms) === 0 ? null : (Number(job.ended_ms) || serverNow()) - Number(job.started_ms);
  if (ran === null) return "";
  const time = f.seconds(Math.round(ran / 1000));
  if (Number(job.ended_ms) > 0) return `took ${time}`;
  return [`${time} so far`, f.roughly(job.seconds_left)].filter((part) => part !== "").join(", ");
}

// The progress bar: the warp is there from the start, every committed round weaves one thread in; the one under way fills up.
function renderCloth(job) {
  const total = Math.max(1, Number(job.rounds_total));
  const done = Number(job.round);
  const part = Number(job.phase_total) > 0 ? Number(job.phase_done) / Number(job.phase_total) : 0;
  const cloth = byId("cloth");
  cloth.setAttribute("aria-valuemax", String(total));
  cloth.setAttribute("aria-valuenow", String(done));
  const single = total > maxThreads;
  setClass(cloth, `cloth${single ? " single" : ""}`);
  const threads = single ? [1] : Array.from({length: total}, (_, i) => i + 1);
  mirror(cloth, threads, (round) => round, () => el("span", {class: "thread"}, el("i")), (thread, round) => {
    const filled = single ? (done + part) / total : round <= done ? 1 : round === done + 1 && job.state === "RUNNING" ? part : 0;
    const best = !single && round === Number(job.best_round) && round <= done;
    setClass(thread, `thread${best ? " best" : ""}${!single && round === done + 1 && job.state === "RUNNING" ? " now" : ""}`);
    thread.firstChild.style.transform = `scaleX(${filled})`;
    if (!single) thread.title = `Round ${round}${best ? ", the best so far" : ""}`;
  });
}

function renderTiles(job) {
  const evaluated = (job.rounds ?? []).filter((r) => r.accuracy !== undefined);
  const last = evaluated.at(-1);
  const before = evaluated.at(-2);
  const change = last === undefined || before === undefined ? "" :
      `${last.accuracy >= before.accuracy ? "+" : "\u2212"}${(100 * Math.abs(last.accuracy - before.accuracy)).toFixed(1)} pts since round ${before.round}`;
  const connected = (status.clients ?? []).filter((c) => c.connected);
  const rows = connected.reduce((sum, c) => sum + Number(c.train_examples), 0);
  const updates = (job.rounds ?? []).reduce((sum, r) => sum + Number(r.updates), 0);
  const ended = Number(job.ended_ms) > 0;
  const tiles = [
    {name: ended ? "Accuracy at the end" : "Accuracy now", key: "accuracy", value: f.percent(last?.accuracy), note: change || (last === undefined ? "not evaluated yet" : `in round ${last.round}`), big: true},
    {name: "Best", value: evaluated.length > 0 ? f.percent(job.best_accuracy) : f.none,
      note: evaluated.length > 0 ? `in round ${job.best_round}` : "not evaluated yet", best: true},
    ...last?.f1 === undefined ? [] : [{name: "F1", value: f.percent(last.f1), note: "mean over labels"}],
    ...last?.perplexity === undefined ? [] : [{name: "Perplexity", value: f.decimal(last.perplexity, 2), note: "lower is better"}],
    {name: "Clients", value: `${f.count(connected.length)}`, note: `${f.count(rows)} rows to train on`},
    {name: "Uploaded by clients", value: f.bytes(job.bytes_up), note: updates > 0 ? `in ${f.plural(updates, "update")}` : "no update yet"},
    {name: "Downloaded by clients", value: f.bytes(job.bytes_down), note: "adapters to start from"},
  ];
  mirror(byId("tiles"), tiles, (tile) => tile.key ?? tile.name,
      (tile) => el("div", {class: "tile"}, el("h2", {}, tile.name), el("p", {class: "value"}), el("p", {class: "note"})),
      (node, tile) => {
        setClass(node, `tile${tile.big ? " big" : ""}${tile.best ? " best" : ""}`);
        setText(node.children[0], tile.name);
        setText(node.children[1], tile.value);
        setText(node.children[2], tile.note);
      });
}

function renderCharts(job) {
  const rounds = job.rounds ?? [];
  const last = rounds.length > 0 ? rounds.at(-1).round : 1;
  const value = (v) => v === undefined || !Number.isFinite(Number(v)) ? null : Number(v);
  const counted = {causal_lm: "token", sentence_embedding: "pair"}[job.config?.task?.type] ?? "row";
  accuracyChart.update({
    unit: `${counted}s ${counted === "row" ? "answered" : counted === "token" ? "predicted" : "found"} right, %`,
    points: rounds.filter((r) => r.accuracy !== undefined).map((r) => ({round: Number(r.round), accuracy: value(r.accuracy)})),
    last: Number(last), target: value(job.config?.stop?.target_accuracy), best: Number(job.best_round),
  });
  lossChart.update({
    unit: `nats per ${counted}`,
    points: rounds.map((r) => ({round: Number(r.round), loss: value(r.loss), train: value(r.train_loss)})), last: Number(last), target: null,
  });
}

function cells(specs) {
  return el("tr", {}, ...specs.map(([tag, cls, label]) => el(tag, {
    ...cls && {class: cls}, ...tag === "th" && {scope: "row"}, ...label && {"data-label": label},
  })));
}

function renderClients(clients) {
  show(byId("clients-card"), clients.length > 0);
  const connected = clients.filter((c) => c.connected).length;
  setText(byId("clients-hint"), connected === clients.length ? `${f.count(connected)} connected` :
      `${f.count(connected)} of ${f.count(clients.length)} connected`);
  mirror(byId("clients").tBodies[0], clients, (c) => c.client_id, () => {
    const row = cells([["th", "client"], ["td", "activity", "Now"], ["td", "num", "Training rows"], ["td", "num", "Tokens/s"],
      ["td", "num", "Uploaded"], ["td", "num", "Downloaded"], ["td", "num", "Last seen"]]);
    row.cells[0].append(el("div", {class: "who"}, el("span", {class: "dot", "aria-hidden": "true"}), el("span", {class: "id"}),
        el("span", {class: "device"})));
    row.cells[1].append(el("span", {class: "doing"}), el("span", {class: "meter", "aria-hidden": "true"}, el("i")));
    return row;
  }, (row, client) => {
    const refused = client.connected && client.activity.startsWith("refused");
    const active = client.connected && client.activity !== "idle" && !refused;
    setClass(row, `${client.connected ? "on" : "off"}${active ? " active" : ""}${refused ? " refused" : ""}`);
    const [, id, device] = row.cells[0].firstChild.children;
    setText(id, client.client_id);
    setText(device, client.device);
    const [doing, meter] = row.cells[1].children;
    const total = Number(client.steps_total);
    const moving = active && total > 0;
    setText(doing, !client.connected ? "disconnected" :
        moving ? `${client.activity} ${f.percent(Math.min(1, Number(client.steps_done) / total), 0)}` : client.activity || "idle");
    show(meter, moving);
    meter.firstChild.style.transform = `scaleX(${moving ? Math.min(1, Number(client.steps_done) / total) : 0})`;
    setText(row.cells[2], f.count(client.train_examples));
    row.cells[2].title = `${f.count(client.test_examples)} more to evaluate on`;
    setText(row.cells[3], Number(client.tokens_per_second) > 0 ? f.count(client.tokens_per_second) : f.none);
    setText(row.cells[4], f.bytes(client.bytes_up));
    setText(row.cells[5], f.bytes(client.bytes_down));
    row.cells[6].dataset.since = client.last_seen_ms;
    setText(row.cells[6], Number(client.last_seen_ms) > 0 ? f.ago(serverNow() - Number(client.last_seen_ms)) : f.none);
  });
}

function renderEmpty(clients) {
  const connected = clients.filter((c) => c.connected).length;
  setClass(byId("step-client"), connected > 0 ? "done" : "");
  setText(byId("so-far"), connected > 0 ? `${f.plural(connected, "client")} connected.` : "None has connected so far.");
}

function renderRounds(job) {
  const rounds = [...job?.rounds ?? []].reverse();
  show(byId("rounds-card"), rounds.length > 0);
  const shown = allRounds ? rounds : rounds.slice(0, roundsShown);
  const hasPrivacy = job?.privacy !== undefined;
  const hasF1 = rounds.some((r) => r.f1 !== undefined);
  const hasPerplexity = rounds.some((r) => r.perplexity !== undefined);
  show(byId("epsilon-head"), hasPrivacy);
  show(byId("f1-head"), hasF1);
  show(byId("perplexity-head"), hasPerplexity);
  mirror(byId("rounds").tBodies[0], shown, (r) => r.round,
      () => cells([["th"], ...Array.from({length: 11}, () => ["td", "num"])]), (row, r) => {
        const best = r.accuracy !== undefined && r.round === job.best_round;
        setClass(row, best ? "best" : "");
        const values = [f.count(r.round) + (best ? " best" : ""), f.percent(r.accuracy), f.percent(r.f1), f.decimal(r.loss),
          f.decimal(r.perplexity, 2), f.decimal(r.train_loss),
          r.updates === r.selected ? f.count(r.updates) : `${f.count(r.updates)} of ${f.count(r.selected)}`, f.count(r.examples),
          f.bytes(r.bytes_up), f.bytes(r.bytes_down), f.seconds(Number(r.train_seconds) + Number(r.evaluation_seconds)),
          f.decimal(r.epsilon, 2)];
        values.forEach((text, i) => setText(row.cells[i], text));
        show(row.cells[2], hasF1);
        show(row.cells[4], hasPerplexity);
        show(row.cells[11], hasPrivacy);
      });
  show(byId("more"), rounds.length > roundsShown);
  setText(byId("more"), allRounds ? "Show the latest only" : `Show all ${f.count(rounds.length)} rounds`);
}

// The effective config as "a.b.c" and value; long lists are counted.
function flatten(value, path = "") {
  if (Array.isArray(value)) return [[path, value.length > 8 ? `${value.length} entries` : value.join(", ")]];
  if (value === null || typeof value !== "object") return [[path, String(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flatten(inner, path === "" ? key : `${path}.${key}`));
}

function renderSettings(job) {
  show(byId("settings-card"), job !== undefined);
  if (job === undefined) return;
  const facts = [["job id", job.job_id], ["layout hash", job.layout_hash], ...flatten(job.config ?? {})]
      .filter(([, text]) => text !== undefined && text !== "");
  mirror(byId("settings"), facts, ([key]) => key, () => el("div", {}, el("dt"), el("dd")), (node, [key, text]) => {
    setText(node.children[0], key);
    setText(node.children[1], text);
  });
}
