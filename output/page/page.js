// The page of a trace. All texts get into the document by textContent alone.
(() => {
"use strict";

const d = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const root = document.documentElement;

// make is an element with properties and children.
function make(tag, properties, ...children) {
	const e = Object.assign(document.createElement(tag), properties);
	e.append(...children);
	return e;
}

// The forms of numbers.

const count = n => n.toLocaleString("en");

function bytes(pages) {
	let n = pages * d.page_size, unit = 0;
	const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
	for (; Math.abs(n) >= 1024 && unit < units.length - 1; unit++) n /= 1024;
	return (Number.isInteger(n) ? n : n.toFixed(1)) + " " + units[unit];
}

function pages(n) {
	if (n == null) return "–";
	return count(n) + (n === 1 ? " page" : " pages") + (d.page_size ? " (" + bytes(n) + ")" : "");
}

const plural = (n, what) => count(n) + " " + what + (n === 1 ? "" : "s");

// time is a time since the first call, given in microseconds.
function time(us) {
	const a = Math.abs(us);
	if (a < 1e3) return us + " µs";
	if (a < 1e6) return +(us / 1e3).toFixed(3) + " ms";
	if (a < 12e7) return (us / 1e6).toFixed(3) + " s";
	const s = Math.floor(a / 1e6);
	return (us < 0 ? "-" : "") + (s >= 3600 ? Math.floor(s / 3600) + ":" : "") + String(Math.floor(s / 60) % 60).padStart(2, "0") + ":" + String(s % 60).padStart(2, "0");
}

// lower is the first index of a sorted list whose value is not below v.
function lower(list, v) {
	let a = 0, b = list.length;
	while (a < b) {
		const m = (a + b) >> 1;
		if (list[m] < v) a = m + 1; else b = m;
	}
	return a;
}

// The view that all charts share, and the moment that the table is about.

const pad = Math.max(1, d.end / 25);
const whole = { min: -pad, max: d.end + pad };
let view = { ...whole }, moment = d.end;
const times = [...new Set([...d.moves.t || [], ...d.notes.map(n => n.t), ...d.accounts.flatMap(a => a.t.slice(1)), d.end])].filter(t => t >= 0).sort((a, b) => a - b);
const shown = []; // charts

function setView(min, max) {
	const least = 4; // microseconds
	if (max - min < least) { const mid = (min + max) / 2; min = mid - least / 2; max = mid + least / 2; }
	const span = Math.min(max - min, whole.max - whole.min);
	min = Math.max(whole.min, Math.min(min, whole.max - span));
	view = { min, max: min + span };
	root.dataset.view = view.min + " " + view.max;
	shown.forEach(c => c.draw());
}

const zoom = factor => {
	const at = moment >= view.min && moment <= view.max ? moment : (view.min + view.max) / 2;
	setView(at - (at - view.min) * factor, at + (view.max - at) * factor);
};
const pan = part => setView(view.min + part * (view.max - view.min), view.max + part * (view.max - view.min));

function setMoment(t) {
	const i = Math.max(0, lower(times, t + .5) - 1);
	moment = times.length ? times[i] : 0;
	$("moment").value = i;
	$("moment").setAttribute("aria-valuetext", time(moment));
	$("now").textContent = "after " + time(moment);
	if (moment < view.min || moment > view.max) {
		const half = (view.max - view.min) / 2;
		setView(moment - half, moment + half);
	}
	shown.forEach(c => { c.plot.redraw(false, false); c.legend(); });
	showHolders();
}

// The charts.

const colour = name => getComputedStyle(root).getPropertyValue("--" + name).trim();

// seen are an account's points in the view: of many, for each pixel the first, the last, the
// lowest and the highest.
function seen(a, pixels) {
	const first = Math.max(0, lower(a.t, view.min) - 1), end = Math.min(a.t.length, lower(a.t, view.max) + 1);
	const list = [];
	if (end - first <= 4 * pixels) {
		for (let i = first; i < end; i++) list.push(i);
	} else {
		const step = (view.max - view.min) / pixels;
		for (let i = first; i < end;) {
			const to = Math.max(i + 1, Math.min(end, lower(a.t, a.t[i] + step)));
			let low = i, high = i;
			for (let j = i; j < to; j++) {
				if (a.actual[j] < a.actual[low]) low = j;
				if (a.actual[j] > a.actual[high]) high = j;
			}
			list.push(...[...new Set([i, low, high, to - 1])].sort((x, y) => x - y));
			i = to;
		}
	}
	return [a.t, a.actual, a.right, a.limit].map(column => list.map(i => column[i]));
}

const axisUnit = () => {
	const a = Math.max(Math.abs(view.min), Math.abs(view.max));
	return a < 2e3 ? [1, "µs"] : a < 2e6 ? [1e3, "ms"] : [1e6, "s"];
};
const short = n => Math.abs(n) >= 1e6 ? +(n / 1e6).toFixed(2) + "M" : Math.abs(n) >= 1e4 ? +(n / 1e3).toFixed(1) + "k" : String(n);

const whole10 = [...Array(16).keys()].flatMap(n => [1, 2, 5].map(by => by * 10 ** n)); // no half pages

// tallest is the highest value to show: a limit far above all else would press it flat.
function tallest(a) {
	let most = 0;
	for (const y of a.marks.y) most = Math.max(most, y);
	for (let i = 0; i < a.t.length; i++) most = Math.max(most, a.actual[i], a.right[i]);
	return most;
}

class Chart {
	constructor(a, into) {
		this.a = a;
		a.marks = { point: a.marks.point || [], y: a.marks.y || [], note: a.marks.note || [] };
		if (!a.extended) { // the last values hold to the end, or to a gap
			const last = a.t.length - 1;
			a.t.push(Math.max(a.t[last], a.end < d.end ? a.end : d.end + pad)); a.actual.push(a.actual[last]); a.right.push(a.right[last]); a.limit.push(a.limit[last]);
			a.extended = true;
		}
		this.limit = a.limit[a.limit.length - 1];
		this.limitName = a.process ? "limit" : "allowance";
		this.most = tallest(a);
		const limits = a.limit.filter(l => l != null);
		this.above = limits.length > 0 && Math.max(...limits.slice(-1000)) > 6 * Math.max(1, this.most);
		this.box = make("div", { className: "box", tabIndex: 0 });
		this.box.setAttribute("role", "application");
		this.box.setAttribute("aria-label", this.words());
		this.hint = make("p", { className: "hint" });
		into.append(make("figure", {}, this.caption(), this.box, this.hint));
		this.box.steps = () => this.plot.data[1].filter((v, i, all) => i === 0 || v !== all[i - 1]); // as drawn
		this.box.addEventListener("keydown", e => this.key(e));
		shown.push(this);
		this.build();
	}

	name() {
		const a = this.a;
		return (a.process ? a.name + " · pid " + a.pid + " · uid " + a.uid : "uid " + a.uid + (a.split ? " (locked_vm; perf has a counter of its own)" : "")) +
			(a.end < d.end ? " · until a gap, at " + time(a.end) : "");
	}

	limitWords() {
		if (this.limit == null) return this.a.process ? "no limit" : "the allowance is not known";
		return this.limitName + " " + pages(this.limit) + (this.above ? ", above the chart" : "") + (this.a.exempt ? "; has CAP_IPC_LOCK and may exceed it" : "");
	}

	words() {
		const a = this.a, n = a.actual.length - 1;
		return "Chart of " + (a.process ? "pinned_vm of process " + a.pid + " (" + a.name + ")" : "the counter of user " + a.uid) + ": from " + pages(a.actual[0]) +
			" to " + pages(a.actual[n]) + (a.over ? ", where " + pages(a.right[n]) + " would be right" : "") + "; " + this.limitWords() + "; " +
			plural(a.refused, "refusal") + ", " + plural(this.broken(), "broken rule") + ". Arrow keys move along its changes.";
	}

	broken() { return this.a.marks.note.filter(n => d.notes[n].verdict).length; }

	caption() {
		const a = this.a, c = make("figcaption", {}, make("b", { textContent: this.name() }), make("span", { className: "dim", textContent: this.limitWords() }));
		if (a.refused) c.append(make("span", { className: "badge refused", textContent: "✕ " + count(a.refused) + " refused" }));
		if (this.broken()) c.append(make("span", { className: "badge broken", textContent: "◆ " + plural(this.broken(), "broken rule") }));
		if (a.foreign) c.append(make("div", { className: "dim", textContent: "Moved between the calls by what is not in the recording: " + pages(a.foreign) + ", in the line “charged” only." }));
		if (a.unclear) c.append(make("div", { className: "dim", textContent: "Some calls overlapped: readings during them may hold what another call charged." }));
		return c;
	}

	build() {
		if (this.plot) this.plot.destroy();
		const a = this.a, stepped = uPlot.paths.stepped({ align: 1 });
		const line = (label, name, dash, width) => ({ label, stroke: colour(name), width, dash, paths: stepped, points: { show: false }, value: (u, v) => pages(v) });
		const axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") }, font: "12px system-ui, sans-serif" };
		this.plot = new uPlot({
			width: this.width(), height: this.height(), padding: [10, 12, 0, 0],
			scales: {
				x: { time: false, range: () => [view.min, view.max] },
				y: { range: () => this.heights() },
			},
			axes: [
				{ ...axis, values: (u, splits) => { const [by, unit] = axisUnit(); return splits.map(v => v < 0 || v > d.end ? "" : +(v / by).toFixed(3) + " " + unit); } },
				{ ...axis, size: 62, incrs: whole10, values: (u, splits) => splits.map(short) },
			],
			series: [{ label: "since", value: (u, v) => v == null ? "–" : time(Math.min(Math.max(v, 0), d.end)) }, line("charged", "actual", [], 2.5), line("should be", "right", [8, 4], 2.5), line(this.limitName, "limit", [2, 4], 1.5)],
			bands: a.over ? [{ series: [1, 2], fill: colour("over") }] : [],
			cursor: {
				drag: { x: true, y: false, setScale: false }, sync: { key: "pinwatch", setSeries: false }, points: { size: 8 },
				dataIdx: (u, series, closest, x) => closest > 0 && u.data[0][closest] > x ? closest - 1 : closest,
			},
			hooks: {
				draw: [u => this.marks(u)],
				setCursor: [u => this.point(u)],
				setSelect: [u => {
					if (u.select.width < 4) return;
					this.dragged = true;
					const min = u.posToVal(u.select.left, "x"), max = u.posToVal(u.select.left + u.select.width, "x");
					u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
					setView(min, max);
				}],
			},
		}, seen(a, this.width()), this.box);
		this.plot.over.addEventListener("click", e => {
			if (this.dragged) { this.dragged = false; return; }
			const near = this.near(e.offsetX);
			if (near >= 0) { setMoment(d.notes[a.marks.note[near]].t); openNote(a.marks.note[near]); } else setMoment(this.plot.posToVal(e.offsetX, "x"));
		});
		this.plot.over.addEventListener("mousedown", () => { this.dragged = false; });
	}

	height() { return this.a.alone && innerWidth > 520 ? 320 : 240; }

	width() { return Math.max(240, this.box.clientWidth); }

	heights() {
		let most = 0, least = 0;
		const a = this.a, from = Math.max(0, lower(a.t, view.min) - 1), to = Math.min(a.t.length, lower(a.t, view.max));
		for (let i = from; i < to; i++) {
			most = Math.max(most, a.actual[i], a.right[i], this.above || a.limit[i] == null ? 0 : a.limit[i]);
			least = Math.min(least, a.actual[i], a.right[i]);
		}
		const m = a.marks;
		for (let i = 0; i < m.y.length; i++) if (m.point[i] >= from && m.point[i] < to) most = Math.max(most, m.y[i]);
		most ||= 1;
		return [least - .04 * (most - least), most + .08 * (most - least)]; // a line at 0 is seen
	}

	draw() { this.plot.setData(seen(this.a, this.width())); this.legend(); }

	resize() { this.plot.setSize({ width: this.width(), height: this.height() }); this.draw(); }

	// marks draws the moment and the marks, no two of them at one pixel.
	marks(u) {
		const g = u.ctx, m = this.a.marks, px = devicePixelRatio || 1, size = 5.5 * px, drawn = new Set();
		g.save();
		g.beginPath();
		g.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
		g.clip();
		const at = u.valToPos(moment, "x", true);
		g.setLineDash([]);
		g.strokeStyle = colour("dim"); g.lineWidth = px;
		g.beginPath(); g.moveTo(at, u.bbox.top); g.lineTo(at, u.bbox.top + u.bbox.height); g.stroke();
		const refused = colour("refused"), broken = colour("broken");
		for (let i = 0; i < m.note.length; i++) {
			const n = d.notes[m.note[i]], t = this.a.t[m.point[i]];
			if (t < view.min || t > view.max) continue;
			const x = u.valToPos(t, "x", true), y = u.valToPos(m.y[i], "y", true), where = Math.round(x) + " " + Math.round(y) + !!n.refused;
			if (drawn.has(where)) continue;
			drawn.add(where);
			if (n.verdict && !n.refused) {
				g.fillStyle = broken;
				g.beginPath(); g.moveTo(x, y - size); g.lineTo(x + size, y); g.lineTo(x, y + size); g.lineTo(x - size, y); g.fill();
			}
			if (n.refused) {
				g.strokeStyle = refused; g.lineWidth = 3 * px;
				g.beginPath(); g.moveTo(x - size, y - size); g.lineTo(x + size, y + size); g.moveTo(x + size, y - size); g.lineTo(x - size, y + size); g.stroke();
			}
		}
		g.restore();
	}

	// near is the mark that a place is at; -1: none.
	near(left) {
		const m = this.a.marks, u = this.plot;
		let best = -1, distance = 12;
		const from = lower(m.point, lower(this.a.t, u.posToVal(left - 12, "x")));
		for (let i = from; i < m.point.length; i++) {
			const x = u.valToPos(this.a.t[m.point[i]], "x");
			if (x > left + 12) break;
			if (Math.abs(x - left) < distance) { best = i; distance = Math.abs(x - left); }
		}
		return best;
	}

	point(u) {
		const i = u.cursor.left >= 0 ? this.near(u.cursor.left) : -1;
		if (u.cursor.left < 0) this.legend();
		this.hint.textContent = i < 0 ? "" : title(d.notes[this.a.marks.note[i]]) + ". Click to read why.";
	}

	// legend tells of the moment, while nothing is pointed at.
	legend() {
		const at = Math.max(0, lower(this.plot.data[0], moment + .5) - 1);
		if (this.plot.legend.idx !== at) this.plot.setLegend({ idx: at }, false);
	}

	key(e) {
		const t = this.a.t;
		if (e.ctrlKey || e.metaKey || e.altKey) return;
		switch (e.key) {
		case "+": case "=": zoom(.5); break;
		case "-": zoom(2); break;
		case "0": setView(whole.min, whole.max); break;
		case "Home": setMoment(0); break;
		case "End": setMoment(d.end); break;
		case "ArrowLeft": e.shiftKey ? pan(-.25) : setMoment(t[Math.max(1, lower(t, moment) - 1)]); break;
		case "ArrowRight": e.shiftKey ? pan(.25) : setMoment(t[Math.min(t.length - 1, lower(t, moment + .5))]); break;
		default: return;
		}
		e.preventDefault();
		const j = Math.max(0, lower(t, moment + .5) - 1);
		this.hint.textContent = "After " + time(moment) + ": charged " + pages(this.a.actual[j]) + ", should be " + pages(this.a.right[j]) + ".";
	}
}

// charts shows accounts, some at a time: at first those whose counter moved.
function charts(accounts, into) {
	const moved = a => a.marks.note || a.actual.some(v => v !== a.actual[0]);
	const more = make("button", { type: "button", className: "more" }), still = accounts.filter(a => !moved(a));
	accounts = [...accounts.filter(moved), ...still];
	let at = 0;
	const next = upTo => {
		more.remove();
		for (; at < upTo; at++) new Chart(accounts[at], into);
		const left = accounts.length - at;
		if (!left) return;
		more.textContent = "Show " + (left > 6 ? "6 of " : "") + count(left) + " more" + (left <= still.length ? ", whose counter did not move" : "");
		into.append(more);
	};
	more.addEventListener("click", () => next(Math.min(accounts.length, at + 6)));
	if (accounts.length - still.length === 1) { into.classList.add("one"); accounts[0].alone = true; }
	if (!accounts.length) into.append(make("p", { textContent: "None in this recording." }));
	next(Math.min(6, accounts.length - still.length));
}

// The table of holders.

function table(e, head, rows, foot) {
	const row = (cell, values) => make("tr", {}, ...values.map((v, i) => {
		const c = make(cell, { textContent: typeof v === "number" ? count(v) : v, className: head[i][1] || "" });
		if (cell === "th") c.scope = "col";
		return c;
	}));
	e.replaceChildren(make("thead", {}, row("th", head.map(h => h[0]))), make("tbody", {}, ...rows.map(r => row("td", r))), make("tfoot", {}, ...(foot || []).map(r => row("td", r))));
}

function showHolders() {
	const m = d.moves, sums = d.holders.map(h => ({ h, count: 0, user: 0, pinned: 0 }));
	for (let i = 0; m.t && i < m.t.length && m.t[i] <= moment; i++) {
		const s = sums[m.holder[i]];
		s.count += m.count[i]; s.user += m.user[i]; s.pinned += m.pinned[i];
	}
	const held = sums.filter(s => s.count || s.user || s.pinned).sort((a, b) => b.user + b.pinned - a.user - a.pinned);
	const foot = d.accounts.filter(a => !a.process && (moment < a.end || a.end === d.end)).map(a => {
		const i = lower(a.t, moment + .5) - 1, known = held.filter(s => s.h.uid === a.uid && s.h.split === a.split).reduce((n, s) => n + s.user, 0);
		return [a, i < 0 ? 0 : a.actual[i] - known];
	}).filter(([, rest]) => rest).map(([a, rest]) => ["older than the recording, or not in it", "", "", rest, "uid " + a.uid, "", ""]);
	$("holders-at").textContent = "after " + time(moment);
	table($("holders"), [["process"], ["pid", "n"], ["pages charged to the process", "n"], ["and to its user", "n"], ["user"], ["for"], ["how many", "n"]],
		held.slice(0, 200).map(s => [s.h.comm, String(s.h.pid), s.pinned, s.user, "uid " + s.h.uid, s.h.what, s.count || "–"]),
		held.length ? foot : [["Nobody that is known.", "", "", "", "", "", ""], ...foot]);
}

// The refusals and broken rules.

const title = n => "Call " + count(n.event) + ": " + (n.refused ? n.what + " refused with " + n.refused : n.what) + (n.verdict ? ", " + n.verdict : "");
let listed = [], list = 0;

function noteItem(i) {
	const n = d.notes[i], li = make("li", { id: "note-" + i, tabIndex: -1, className: n.refused ? "isrefused" : "" });
	const show = make("button", { type: "button", textContent: "Show in the charts" });
	show.addEventListener("click", () => { setMoment(n.t); $("main").scrollIntoView(); });
	li.append(make("div", { className: "line" },
		make("b", { className: n.refused ? "refused" : "broken", textContent: (n.refused ? "✕ " : "◆ ") + title(n) }),
		make("span", { textContent: n.comm + " · pid " + n.pid + " · uid " + n.uid }),
		make("span", { textContent: "after " + time(n.t) + (n.pages ? ", " + pages(n.pages) : "") }), show));
	const text = n.like >= 0 ? "As call " + count(d.notes[n.like].event) + " (but for the numbers): " + (d.notes[n.like].text || "") : n.text || "";
	if (text) li.append(make("p", { textContent: text }));
	return li;
}

function moreNotes(upTo) {
	const to = Math.min(listed.length, Math.max(list + 50, upTo || 0));
	$("notes").append(...listed.slice(list, to).map(noteItem));
	list = to;
	$("notes-more").hidden = list >= listed.length;
	$("notes-more").textContent = "Show more of " + count(listed.length - list);
}

function listNotes() {
	const kind = $("notes-kind").value, text = $("notes-text").value.toLowerCase();
	listed = [];
	d.notes.forEach((n, i) => {
		if (kind === "refused" && !n.refused || kind === "broken" && !n.verdict) return;
		if (text && !(n.comm + " pid " + n.pid + " uid " + n.uid + " " + title(n)).toLowerCase().includes(text)) return;
		listed.push(i);
	});
	$("notes").replaceChildren();
	list = 0;
	$("notes-count").textContent = listed.length === d.notes.length ? count(listed.length) : count(listed.length) + " of " + count(d.notes.length);
	moreNotes();
	if (!listed.length) $("notes").append(make("li", { textContent: d.notes.length ? "None of these." : "None in this recording." }));
}

function openNote(i) {
	if (!listed.includes(i)) { $("notes-kind").value = "all"; $("notes-text").value = ""; listNotes(); }
	const at = listed.indexOf(i);
	if (at < list + 200) moreNotes(at + 1);
	else if (!$("note-" + i)) $("notes").prepend(noteItem(i)); // not thousands before it
	document.querySelectorAll(".here").forEach(e => e.classList.remove("here"));
	const li = $("note-" + i);
	if (!li) return;
	li.classList.add("here");
	li.focus({ preventScroll: true });
	li.scrollIntoView({ block: "center" });
}

// The theme: that of the system until somebody chooses.

const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = "auto";
function theme(print) {
	root.dataset.theme = print ? "light" : chosen === "auto" ? dark.matches ? "dark" : "light" : chosen;
	$("theme").textContent = "Theme: " + chosen;
	shown.forEach(c => c.build());
}

// Begin.

document.title = "pinwatch report " + d.title;
$("title").textContent = d.title;
$("verdict").classList.toggle("bad", d.broken);
$("verdict").append(make("p", { className: "head", textContent: (d.broken ? "✕ " : "") + d.verdict.charAt(0).toUpperCase() + d.verdict.slice(1) }), ...d.story.map(s => make("p", { textContent: s })),
	make("p", { className: "dim", textContent: "Accounting: " + d.accounting }), ...d.traces.map(t => make("p", { className: "dim", textContent: t.counts + (t.since ? ", from " + t.since + " for " + time(t.length) : "") + "." })),
	...d.begin && d.begin !== d.traces[0].since ? [make("p", { className: "dim", textContent: "Times are since " + d.begin + "." })] : []);
root.dataset.theme = dark.matches ? "dark" : "light";
charts(d.accounts.filter(a => a.process), $("processes"));
charts(d.accounts.filter(a => !a.process), $("users"));
$("moment").max = Math.max(0, times.length - 1);
if (d.rules.length) {
	$("rules-section").hidden = false;
	table($("rules"), [["verdict"], ["times", "n"], ["uncertain", "n"], ["the rule that the kernel broke"], ["whom that hurts"]], d.rules.map(r => [r.verdict, r.count, r.uncertain, r.rule, r.impact]));
}
$("summary").append(...d.summary.map(s => make("li", { textContent: s, className: s.startsWith("  ") ? "deep" : "" })));
listNotes();
theme();
setView(whole.min, whole.max);
setMoment(d.end);

$("in").addEventListener("click", () => zoom(.5));
$("out").addEventListener("click", () => zoom(2));
$("left").addEventListener("click", () => pan(-.25));
$("right").addEventListener("click", () => pan(.25));
$("whole").addEventListener("click", () => setView(whole.min, whole.max));
$("moment").addEventListener("input", e => setMoment(times[e.target.value] ?? 0));
$("notes-more").addEventListener("click", () => moreNotes());
$("notes-kind").addEventListener("change", listNotes);
$("notes-text").addEventListener("input", listNotes);
$("theme").addEventListener("click", () => { chosen = { auto: "dark", dark: "light", light: "auto" }[chosen]; theme(); });
dark.addEventListener("change", () => theme());
let sized;
addEventListener("resize", () => { clearTimeout(sized); sized = setTimeout(() => shown.forEach(c => c.resize()), 100); });
addEventListener("beforeprint", () => {
	$("words").open = true;
	theme(true);
	shown.forEach(c => c.plot.setSize({ width: Math.min(c.width(), 660), height: 240 }));
});
addEventListener("afterprint", () => { theme(); shown.forEach(c => c.resize()); });
root.dataset.ready = "yes";
})();
