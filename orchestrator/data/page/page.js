// The page of a cluster: what the gateway tells each second, drawn. Every text goes in as text, never as markup.
"use strict";

const $ = id => document.getElementById(id);
const PLAN = { cache: 0.6, small: 0.3, full: 0.1 };
const WINDOW_S = 60;
const samples = []; // { at_s, vitals } of the last minute, the oldest first
let last = null; // what was told last
let key = sessionStorage.getItem("key") || "";

// --- elements --------------------------------------------------------------------------------------------------------

function el(tag, text = "", cls = "", attributes = {}) {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (cls) made.className = cls;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function button(text, act, cls = "", label = "") {
  const made = el("button", text, cls, label ? { "aria-label": label } : {});
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

// Redrawn each second: where nothing has changed, nothing is touched, so that focus and selection stay.
const drawn = new Map();
function fill(id, state, make) {
  const told = JSON.stringify(state);
  if (drawn.get(id) === told) return;
  const within = $(id).contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  drawn.set(id, told);
  $(id).replaceChildren(...make());
  if (within) $(id).querySelector(`[aria-label="${CSS.escape(within)}"]`)?.focus();
}

function table(heads, rows) {
  const head = el("thead"), top = el("tr"), body = el("tbody");
  heads.forEach(each => top.append(el("th", each.replace(/^#/, ""), each.startsWith("#") ? "num" : "", { scope: "col" })));
  head.append(top);
  for (const cells of rows) {
    const row = el("tr");
    cells.forEach((cell, at) => { const made = el("td", "", heads[at].startsWith("#") ? "num" : ""); made.append(cell); row.append(made); });
    body.append(row);
  }
  return [head, body];
}

const gib = bytes => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
const percent = part => `${(100 * part).toFixed(part && part < 0.1 ? 1 : 0)} %`;
const seconds = s => s == null ? "–" : s < 0.0095 ? `${(1e3 * s).toFixed(1)} ms` : s < 1 ? `${Math.round(1e3 * s)} ms` : `${s.toFixed(1)} s`;
const number = n => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 1 : 0 });
const dollars = usd => usd === 0 ? "$0" : usd < 0.01 ? `$${usd.toPrecision(2)}` : `$${usd.toFixed(2)}`;
const state = told => told === "serving" ? "good" : told === "down" ? "bad" : "busy";

// --- what was counted ------------------------------------------------------------------------------------------------

function sum(vitals, metric, having = {}) {
  let total = 0;
  for (const [labels, value] of vitals[metric] || [])
    if (Object.entries(having).every(([name, wanted]) => labels[name] === wanted)) total += value;
  return total;
}

const since = () => samples[0];
const lately = (metric, having) => sum(last.vitals, metric, having) - sum(since().vitals, metric, having);
const aSecond = (metric, having) => { const s = last.at_s - since().at_s; return s > 0 ? lately(metric, having) / s : 0; };

function buckets(vitals, metric, having) {
  const found = new Map();
  for (const [labels, value] of vitals[metric] || [])
    if (Object.entries(having).every(([name, wanted]) => labels[name] === wanted)) {
      const edge = labels.le === "+Inf" ? Infinity : Number(labels.le);
      found.set(edge, (found.get(edge) || 0) + value);
    }
  return found;
}

// Of a histogram's cumulative buckets, as Prometheus' histogram_quantile reads them; of the last minute if it had any.
function quantiles(metric, having, wanted) {
  const now = buckets(last.vitals, metric, having), before = buckets(since().vitals, metric, having);
  let steps = [...now].map(([edge, count]) => [edge, count - (before.get(edge) || 0)]).sort((a, b) => a[0] - b[0]);
  if (!steps.length || !steps.at(-1)[1]) steps = [...now].sort((a, b) => a[0] - b[0]);
  const all = steps.length ? steps.at(-1)[1] : 0;
  return wanted.map(part => {
    if (!all) return null;
    let low = 0, under = 0;
    for (const [edge, count] of steps) {
      if (count >= part * all) return edge === Infinity ? low : low + (edge - low) * (part * all - under) / Math.max(count - under, 1e-9);
      low = edge; under = count;
    }
    return low;
  });
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function draw() {
  const s = last.status;
  fill("badges", [s.cache.state, s.cache.warning, s.is_simulated, s.store], () => [
    el("span", `CACHE ${s.cache.state}`, `badge ${s.cache.state === "ON" ? "on" : "off"}`), document.createTextNode(" "),
    ...(s.is_simulated ? [el("span", "SIMULATED", "badge sim"), document.createTextNode(" times and texts are played ")] : []),
    ...(s.store === "up" ? [] : [el("span", `REDIS ${s.store}`, "badge off")]),
    ...(s.cache.warning ? [el("strong", s.cache.warning, "off")] : []),
  ]);
  numbers(s); nodes(s); tiers(s); queues(s); cache(s); limits(s); routes(s); replayed(s); cost(s); given(s); machines(s);
  fill("notes", s.notes, () => s.notes.length ? s.notes.map(each => el("li", each)) : [el("li", "nothing to say")]);
  fill("model", [s.routes, s.pools.map(p => p.name)], () =>
    [...s.routes, ...s.pools.map(p => p.name)].map(each => el("option", each, "", { value: each })));
}

function numbers(s) {
  const instances = s.pools.flatMap(p => p.instances);
  const slots = instances.filter(i => i.state === "serving").reduce((n, i) => n + i.slots, 0);
  const busy = instances.reduce((n, i) => n + i.in_flight, 0);
  const waiting = s.pools.reduce((n, p) => n + p.queue_depth, 0);
  const hits = Object.values(s.cache.hits).reduce((n, each) => n + each, 0);
  const misses = Object.values(s.cache.misses).reduce((n, each) => n + each, 0);
  const [p95] = quantiles("olm_call_seconds", {}, [0.95]);
  const failed = lately("olm_calls") - lately("olm_calls", { outcome: "ok" });
  const told = [
    ["Calls a second", number(aSecond("olm_calls")), {}],
    ["Tokens a second", number(aSecond("olm_tokens", { kind: "completion" })), {}],
    ["Slots at work", `${busy} of ${slots}`, null],
    ["Waiting", number(waiting), null],
    ["Cache hit rate", hits + misses ? percent(hits / (hits + misses)) : "–", { cache: "hit" }],
    ["p95 of all calls", seconds(p95), {}],
    ["Not answered, last minute", number(failed), { failed: "1" }],
    ["Retried, last minute", number(lately("olm_retries")), null],
  ];
  fill("numbers", told, () => told.map(([name, value, filter]) => {
    const item = el("li");
    const inner = filter ? button("", () => showCalls(name, filter), "", `${name}: ${value}; show calls`) : item;
    inner.append(el("b", value), el("span", name));
    if (filter) item.append(inner);
    return item;
  }));
}

function nodes(s) {
  const instances = s.pools.flatMap(p => p.instances);
  const named = [...s.nodes.map(n => n.node), ...instances.map(i => i.node)].filter((n, at, all) => all.indexOf(n) === at);
  fill("nodes", [s.nodes, instances], () => named.map(name => {
    const facts = s.nodes.find(n => n.node === name), card = el("article", "", "card", { "aria-label": `Node ${name}` });
    card.append(el("h3", name + (facts?.is_simulated ? " (simulated)" : "")));
    if (facts && !facts.accelerators.length)
      card.append(el("p", `no GPU: ${facts.cpu_count} × ${facts.cpu_model}, ${gib(facts.ram_free_bytes)} of ${gib(facts.ram_total_bytes)} RAM free`, "hint"));
    const here = instances.filter(i => i.node === name), gpus = facts?.accelerators || [], grid = el("div", "", "gpus");
    // One that spans several cards is named under the first of them.
    for (const gpu of gpus) {
      const box = accelerator(gpu, instances);
      here.filter(i => i.accelerators[0] === gpu.uuid).forEach(i => box.append(instance(i)));
      grid.append(box);
    }
    card.append(grid, ...here.filter(i => !gpus.some(gpu => gpu.uuid === i.accelerators[0])).map(instance));
    return card;
  }));
}

function accelerator(gpu, instances) {
  const on = instances.filter(i => i.accelerators.includes(gpu.uuid) && i.state !== "down");
  const part = bytes => i => bytes(i) / i.accelerators.length;
  const total = on.reduce((n, i) => n + part(x => x.vram_bytes)(i), 0);
  const kv = on.reduce((n, i) => n + part(x => x.kv_bytes || 0)(i), 0);
  const foreign = gpu.processes.filter(p => !p.is_ours).reduce((n, p) => n + (p.vram_bytes || 0), 0);
  const other = gpu.is_simulated || gpu.processes.length ? (foreign || (gpu.is_simulated ? gpu.vram_used_bytes : 0)) : Math.max(0, gpu.vram_used_bytes - total);
  const parts = [["weights", total - kv, "weights and buffers"], ["kv", kv, "KV cache"], ["other", other, "others"]];
  const free = Math.max(0, gpu.vram_total_bytes - total - other);
  const box = el("div", "", "gpu"), bar = el("div", "", "bar", { role: "img",
    "aria-label": `${gpu.name} #${gpu.index}: ${parts.map(([, n, what]) => `${what} ${gib(n)}`).join(", ")}, free ${gib(free)}` });
  for (const [cls, bytes] of parts) { const made = el("i", "", cls); made.style.width = `${100 * bytes / gpu.vram_total_bytes}%`; bar.append(made); }
  const legend = el("div", "", "legend");
  for (const [cls, bytes, what] of parts) { const one = el("span"); one.append(el("i", "", cls), `${what} ${gib(bytes)}`); legend.append(one); }
  legend.append(el("span", `free ${gib(free)} of ${gib(gpu.vram_total_bytes)}`));
  const more = [gpu.utilisation_percent == null ? "" : `${gpu.utilisation_percent} %`, gpu.temperature_c == null ? "" : `${gpu.temperature_c} °C`, gpu.power_w == null ? "" : `${Math.round(gpu.power_w)} W`];
  box.append(el("div", [`${gpu.name} #${gpu.index}`, ...more.filter(Boolean)].join(" · ")), bar, legend);
  return box;
}

function instance(i) {
  const row = el("div", "", "instance"), slots = el("span", "", "slots", { role: "img", "aria-label": `${i.in_flight} of ${i.slots} slots at work` });
  for (let at = 0; at < i.slots; at++) slots.append(el("i", "", at < i.in_flight ? "lit" : ""));
  row.append(button(i.id, () => showCalls(`Calls of ${i.id}`, { instance: i.id }), "plain name", `${i.id}; show calls`), slots,
    ...(i.accelerators.length > 1 ? [el("span", `on ${i.accelerators.length} cards`)] : []),
    el("span", i.state + (i.reason ? `: ${i.reason}` : ""), state(i.state)));
  if (!i.is_given) {
    const act = i.state === "draining" ? "undrain" : "drain";
    row.append(button(act === "drain" ? "Drain" : "Give calls again", () => wish(act, i.id), "", `${act} ${i.id}`),
      button("Restart", () => wish("restart", i.id), "", `restart ${i.id}`));
  }
  return row;
}

function tiers(s) {
  const calls = Object.values(s.usage).reduce((n, each) => n + each.calls, 0);
  const names = ["cache", ...Object.keys(s.tiers), ...Object.keys(s.usage)].filter((n, at, all) => all.indexOf(n) === at);
  const rows = names.map(name => {
    const used = s.usage[name] || { calls: 0, completion_tokens: 0 }, tier = s.tiers[name] || {};
    const share = calls ? used.calls / calls : 0, [p50, p95, p99] = quantiles("olm_call_seconds", { tier: name }, [0.5, 0.95, 0.99]);
    const rest = tier.state && tier.state !== "closed" ? ` (${tier.state === "open" ? "LEFT ALONE" : "on trial"})` : "";
    return [name + rest, name === "cache" ? "answer cache and FAQ" : tier.model || "", tier.backup || "", used.calls, share, PLAN[name] ?? null,
      aSecond("olm_tokens", { tier: name, kind: "completion" }), p50, p95, p99];
  });
  fill("tiers", rows, () => table(["Tier", "Model", "Backup", "#Calls today", "Share", "#Plan", "#Tokens/s", "#p50", "#p95", "#p99"],
    rows.map(([name, model, backup, n, share, plan, rate, ...times]) => {
      const meter = el("progress", "", "", { max: "1", value: String(share), "aria-label": `share of ${name}` }), cell = el("span");
      cell.append(meter, ` ${percent(share)}`);
      return [button(name, () => showCalls(`Calls answered by ${name}`, { tier: name.split(" ")[0] }), "plain", `${name}; show calls`), model, backup, number(n), cell,
        plan == null ? "" : percent(plan), number(rate), ...times.map(seconds)];
    })));
}

function queues(s) {
  const rows = s.pools.map(p => [p.name, p.queue_depth, p.oldest_wait_s, p.expected_wait_s, quantiles("olm_queue_seconds", { pool: p.name }, [0.5, 0.95])]);
  fill("queues", rows, () => table(["Pool", "#Waiting", "#Longest", "#Expected", "#p50", "#p95"], rows.map(([name, depth, oldest, expected, [p50, p95]]) =>
    [button(name, () => showCalls(`Calls that asked for ${name}`, { model: name }), "plain", `${name}; show calls`), number(depth), seconds(oldest), seconds(expected), seconds(p50), seconds(p95)])));
}

function cache(s) {
  const c = s.cache, hits = Object.entries(c.hits), misses = Object.entries(c.misses);
  fill("cache", [c.state, c.layers, hits, misses, c.answers, c.bytes, c.evicted, c.terms], () => {
    const list = el("ul");
    for (const each of c.layers) {
      const item = el("li"), by = hits.filter(([name]) => name.startsWith(each.name === "routes" || each.name === "models" ? "exact" : each.name.replace(/s$/, "")));
      item.append(el("strong", each.is_on ? "ON " : "OFF ", each.is_on ? "on" : "off"), `${each.name}: ${each.why}`);
      if (by.length && each.name !== "models") item.append(` — hits ${by.map(([name, n]) => `${name} ${number(n)}`).join(", ")}`);
      list.append(item);
    }
    const told = el("p", `${number(c.answers)} answers in ${(c.bytes / 2 ** 20).toFixed(1)} MiB; ${number(c.evicted)} forgotten for want of room; ${c.terms}`, "hint");
    const why = el("p", misses.length ? `No hit: ${misses.sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} ${number(n)}`).join(", ")}` : "No misses yet.", "hint");
    return [list, told, why, button("Forget all answers", () => wish("purge", "all answers"), "", "forget all kept answers")];
  });
}

function limits(s) {
  const all = s.limits.flatMap(each => Object.entries(each.limits).map(([kind, told]) => ({ name: `${each.scope} ${kind}`, ...told })));
  $("limits-part").hidden = !all.length;
  fill("limits", all, () => all.map(({ name, used, allowed }) => {
    const item = el("li"), share = allowed ? used / allowed : 0;
    item.append(el("span", `${name}: ${number(used)} of ${number(allowed)}`, share >= 1 ? "bad" : share > 0.8 ? "busy" : ""),
      el("meter", "", "", { min: "0", max: String(allowed), value: String(Math.min(used, allowed)), high: String(0.8 * allowed), "aria-label": name }));
    return item;
  }));
}

function drift(rates) {
  const told = Object.entries(rates || {}).filter(([, each]) => each.usual != null), gone = told.filter(([, each]) => each.alarm);
  const usual = told.map(([what, each]) => `${what} ${percent(each.usual)}`).join(", ");
  return gone.length ? el("span", `DRIFT: ${gone.map(([what, each]) => `${what}: a ${each.alarm}`).join(", ")} (usually ${usual})`, "bad")
    : el("span", told.length ? `as usual: ${usual}` : "being learnt", told.length ? "good" : "");
}

function routes(s) {
  const all = Object.entries(s.routed);
  $("routes-part").hidden = !all.length;
  fill("routes", s.routed, () => table(["Route", "#Calls today", "#Escalated", "Why", "Rated right, wrong", "As usual"], all.map(([name, r]) =>
    [button(name, () => showCalls(`Calls of ${name}`, { model: name }), "plain", `${name}; show calls`), number(r.calls), r.calls ? `${r.escalated} (${percent(r.escalated / r.calls)})` : "0",
      Object.entries(r.escalated_why).map(each => each.join(" ")).join(", "), `${r.right}, ${r.wrong}`, drift(r.drift)])));
}

function replayed(s) {
  const all = Object.entries(s.replayed);
  $("replayed-part").hidden = !all.length;
  fill("replayed", s.replayed, () => table(["Target", "#Right", "#Questions", "Day by day"], all.map(([name, r]) =>
    [name + (r.is_simulated ? " (simulated)" : ""), percent(r.accuracy), number(r.questions), r.days.slice(-7).map(d => `${d.day}: ${percent(d.accuracy)}`).join(", ")])));
}

function cost(s) {
  const all = Object.values(s.usage), spent = all.reduce((n, each) => n + (each.usd || 0), 0);
  const prompt = all.reduce((n, each) => n + each.prompt_tokens, 0), completion = all.reduce((n, each) => n + each.completion_tokens, 0);
  fill("cost", [spent, prompt, completion, s.prices], () => {
    const rows = s.prices.map(each => [each.name, (prompt * each.prompt + completion * each.completion) / 1e6]).sort((a, b) => a[1] - b[1]);
    const told = el("p", `${dollars(spent)} paid to providers for ${number(prompt)} tokens in, ${number(completion)} out; hardware is not in it. `
      + "The same tokens elsewhere, by the catalogue:"), box = el("div", "", "wide", { tabindex: "0", role: "region", "aria-label": "Cost elsewhere" });
    const made = el("table");
    made.append(...table(["Model", "#US$"], rows.map(([name, usd]) => [name, dollars(usd)])));
    box.append(made);
    return [told, box];
  });
}

// Those that share one Redis. Where it is of one machine alone there is nothing to tell apart.
function machines(s) {
  $("machines-part").hidden = s.machines.length < 2;
  const rows = s.machines.map(m =>
    [m.name, String(m.gateways), m.heard_s == null ? "–" : `${Math.round(m.heard_s)} s ago`, m.controller + (m.why ? `: ${m.why}` : "")]);
  fill("machines", rows, () => table(["Machine", "#Gateways", "Heard of", "Controller"], rows));
}

function given(s) {
  $("given-part").hidden = !s.given.length;
  fill("given", s.given, () => table(["Server", "State", "Engine", "#Models", "In memory"], s.given.map(g =>
    [`${g.name} (${g.url})`, el("span", g.state === "serving" ? "answers" : g.state + (g.reason ? `: ${g.reason}` : ""), state(g.state)),
      `${g.engine} ${g.engine === g.engine_version ? "" : g.engine_version}`, String(g.models.length), g.resident.join(", ") || "–"])));
}

// --- calls behind a number -------------------------------------------------------------------------------------------

const COLUMNS = ["Came", "Call", "Caller", "Asked", "Tier", "Instance", "Cache", "Ended", "#In", "#Out", "#Queue", "#First byte", "#Whole"];
const clock = ms => new Date(ms).toLocaleTimeString("en", { hour12: false });
const asRow = c => [clock(c.at_ms), c.id, c.caller, c.model, c.tier, c.instance, `${c.cache} ${c.why}`, `${c.outcome} ${c.status}`, number(c.prompt_tokens),
  number(c.completion_tokens), seconds(c.queue_ms / 1e3), seconds(c.first_byte_ms / 1e3), seconds(c.total_ms / 1e3)];

async function readCalls(filter) {
  const reply = await ask(`/status/calls?${new URLSearchParams(filter)}`);
  return (await reply.json()).calls;
}

async function showCalls(title, filter) {
  const found = await readCalls(filter);
  $("calls-title").textContent = `${title}: ${found.length ? `the last ${found.length}` : "none in the hours that the page looks back"}`;
  $("calls").replaceChildren(...table(COLUMNS, found.map(asRow)));
  $("calls-dialog").showModal();
}

async function errors() {
  const found = (await readCalls({ failed: "1" })).slice(0, 8);
  fill("errors", found, () => {
    if (!found.length) return [el("p", "none lately", "good")];
    const box = el("div", "", "wide", { tabindex: "0", role: "region", "aria-label": "Last errors" }), made = el("table");
    made.append(...table(COLUMNS, found.map(asRow)));
    box.append(made);
    return [box];
  });
}

// --- acts ------------------------------------------------------------------------------------------------------------

const SURE = {
  drain: "gets no new calls until somebody gives it some again.",
  undrain: "gets calls again.",
  restart: "finishes what it has and is started anew.",
  purge: "are forgotten: instances answer all of it anew.",
};

async function wish(act, what) {
  $("sure-text").textContent = `${what} ${SURE[act]}`;
  const dialog = $("sure-dialog");
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise(done => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return;
  const reply = await ask("/status/act", { method: "POST", body: JSON.stringify({ act, what }), headers: { "Content-Type": "application/json" } });
  const told = await reply.json();
  say(reply.ok ? told.done : told.error?.message || told.error, reply.ok);
}

function say(text, isGood = false) {
  $("error").textContent = text;
  $("error").className = isGood ? "good" : "";
  $("error").hidden = !text;
}

// --- a question ------------------------------------------------------------------------------------------------------

const TOLD = ["X-Tier", "X-Instance", "X-Cache", "X-FAQ", "X-Route", "X-Route-Why", "X-Queue-Position", "Server-Timing", "X-Request-Id"];

$("ask").addEventListener("submit", async event => {
  event.preventDefault();
  const began = performance.now(), box = $("answer"), text = el("pre"), why = el("dl");
  const body = { model: $("model").value, messages: [{ role: "user", content: $("question").value }], stream: true };
  box.replaceChildren(el("p", "asked …"));
  const reply = await ask("/api/chat", { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  box.replaceChildren(text, why);
  for (const name of TOLD) if (reply.headers.get(name)) why.append(el("dt", name), el("dd", reply.headers.get(name)));
  for await (const line of lines(reply)) {
    const frame = JSON.parse(line);
    text.textContent += frame.error || frame.message?.thinking || frame.message?.content || "";
    if (frame.done) why.append(el("dt", "Took"), el("dd", seconds((performance.now() - began) / 1e3)));
  }
});

// --- what comes ------------------------------------------------------------------------------------------------------

async function* lines(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value || "")).split("\n");
    rest = parts.pop();
    yield* parts.filter(Boolean);
    if (done) { if (rest) yield rest; return; }
  }
}

function ask(path, options = {}) {
  const opens = key ? { Authorization: `Bearer ${key}` } : {};
  // A login counts only beside this word: no form, link or foreign page can send it.
  return fetch(path, { ...options, headers: { ...options.headers, ...opens, "X-Requested-With": "ollamactl" } });
}

async function session() {
  const told = await (await ask("/status/session")).json();
  $("login").hidden = !told.login || Boolean(told.name);
  $("login-link").textContent = `Log in with ${told.login}`;
  $("who").hidden = !told.name;
  $("who-name").textContent = told.name;
  return told;
}

$("log-out").addEventListener("click", async () => {
  await ask("/status/logout", { method: "POST" });
  location.reload();
});

class NeedsKey extends Error {}

async function follow() {
  const reply = await ask("/status/live");
  if (reply.status === 401 || reply.status === 403) throw new NeedsKey();
  if (!reply.ok) throw new Error(`the gateway answers ${reply.status}`);
  $("content").hidden = false;
  $("key-form").hidden = true;
  await session();
  errors();
  for await (const line of lines(reply)) {
    if (!line.startsWith("data: ")) continue;
    const told = JSON.parse(line.slice(6));
    if (told.error) { $("link").textContent = told.error; continue; }
    last = { ...told, at_s: performance.now() / 1e3 };
    samples.push(last);
    while (samples.length > 2 && samples[0].at_s < last.at_s - WINDOW_S) samples.shift();
    $("link").textContent = `live · ${clock(Date.now())} · version ${told.status.version}`;
    draw();
  }
}

async function run() {
  for (;;) {
    try {
      await follow();
    } catch (why) {
      if (why instanceof NeedsKey) {
        $("key-form").hidden = false;
        $("content").hidden = true;
        const { login, name } = await session().catch(() => ({}));
        $("link").textContent = key ? "this key is not an admin's" : name ? "this login is not an admin's" : login ? "log in, or give a key" : "a key is needed";
        await new Promise(done => $("key-form").addEventListener("submit", event => { event.preventDefault(); done(); }, { once: true }));
        key = $("key").value;
        sessionStorage.setItem("key", key);
        continue;
      }
      $("link").textContent = `no word from the gateway (${why.message}); trying again`;
    }
    samples.length = 0;
    await new Promise(done => setTimeout(done, 1000));
  }
}

setInterval(() => { if (last) errors().catch(why => { $("link").textContent = why.message; }); }, 5000);
run();
