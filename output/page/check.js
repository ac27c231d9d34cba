// The page of a check. All texts get into the document by textContent alone.
(() => {
"use strict";

const d = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const root = document.documentElement;

function make(tag, properties, ...children) {
	const e = Object.assign(document.createElement(tag), properties);
	e.append(...children);
	return e;
}

const words = { pass: "✓ pass", FAIL: "✕ FAIL", known: "✕ known", skip: "– skip", "?": "? could not run", "": "not run" };
const classes = { pass: "pass", FAIL: "fail", known: "known", skip: "skip" };
const fails = c => c.result === "FAIL" || c.result === "known";

// about is all there is to say of a cell.
function about(s, k) {
	const c = d.cells[s][k], parts = [make("b", { className: fails(c) ? "refused" : "", textContent: d.scenarios[s] + " on " + d.kernels[k].name + ": " + words[c.result] + (c.verdicts.length ? ", " + c.verdicts.join(", ") : "") })];
	if (c.evidence.length) parts.push(make("ul", {}, ...c.evidence.map(text => make("li", { textContent: text }))));
	if (c.reproduce.length) parts.push(make("div", { textContent: "The calls, and how to see it again:" }), make("pre", { textContent: c.reproduce.join("\n") }));
	return parts;
}

function open(s, k) {
	const e = $("cell");
	e.replaceChildren(...about(s, k));
	e.hidden = false;
	e.focus({ preventScroll: true });
	e.scrollIntoView({ block: "nearest" });
}

function show() {
	const kind = $("kind").value, scenario = $("scenario").value.toLowerCase(), kernel = $("kernel").value.toLowerCase();
	const columns = d.kernels.map((k, i) => i).filter(i => d.kernels[i].name.toLowerCase().includes(kernel));
	const fits = c => kind === "all" || (kind === "changed" ? c.changed : c.result === kind);
	const rows = d.scenarios.map((s, i) => i).filter(i => d.scenarios[i].toLowerCase().includes(scenario) && (kind === "all" || columns.some(k => fits(d.cells[i][k]))));
	const button = (s, k) => {
		const c = d.cells[s][k], b = make("button", { type: "button", textContent: words[c.result], className: (classes[c.result] || "none") + (c.changed ? " changed" : "") });
		b.setAttribute("aria-label", d.scenarios[s] + " on " + d.kernels[k].name + ": " + words[c.result].slice(2) + (c.verdicts.length ? ", " + c.verdicts.join(", ") : "") + (c.changed ? ", differs from the kernel before" : ""));
		b.addEventListener("click", () => open(s, k));
		return make("td", {}, b);
	};
	$("matrix").replaceChildren(
		make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "scenario" }), ...columns.map(k => make("th", { scope: "col", textContent: d.kernels[k].name })))),
		make("tbody", {}, ...rows.map(s => make("tr", {}, make("th", { scope: "row", textContent: d.scenarios[s] }), ...columns.map(k => button(s, k))))));
	$("matrix-count").textContent = rows.length + " of " + d.scenarios.length + ", " + columns.length + " of " + d.kernels.length;
}

const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = "auto";
function theme(print) {
	root.dataset.theme = print ? "light" : chosen === "auto" ? dark.matches ? "dark" : "light" : chosen;
	$("theme").textContent = "Theme: " + chosen;
}

document.title = "pinwatch check " + d.title;
$("title").textContent = d.title;
$("verdict").classList.toggle("bad", d.broken);
$("verdict").append(make("p", { className: "head", textContent: (d.broken ? "✕ " : "") + d.verdict.charAt(0).toUpperCase() + d.verdict.slice(1) }));
const list = (id, texts) => $(id).append(...(texts.length ? texts : ["Nothing."]).map(text => make("li", { textContent: text })));
list("changes", d.changes);
$("kernels").append(...d.kernels.map(k => make("li", {}, make("b", { textContent: k.name }), make("ul", {}, ...k.notes.map(text => make("li", { textContent: text }))))));
d.cells.forEach((row, s) => row.forEach((c, k) => {
	if (fails(c)) $("fails").append(make("article", {}, ...about(s, k)));
}));
if (!$("fails").firstChild) $("fails").append("Nothing.");
show();
theme();
$("kind").addEventListener("change", show);
$("scenario").addEventListener("input", show);
$("kernel").addEventListener("input", show);
$("theme").addEventListener("click", () => { chosen = { auto: "dark", dark: "light", light: "auto" }[chosen]; theme(); });
dark.addEventListener("change", () => theme());
addEventListener("beforeprint", () => theme(true));
addEventListener("afterprint", () => theme());
root.dataset.ready = "yes";
})();
