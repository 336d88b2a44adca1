document.documentElement.classList.add("js");
const form = document.forms[0], fields = ["paper", "dataset", "scale", "verdict", "text"];
const all = selector => [...document.querySelectorAll(selector)];
const units = all("tr.row, div.table, figure, tr.copy, tr.source");
const words = new Map(units.map(u => [u, (u.closest("tbody.one") ?? u).textContent.toLowerCase()]));
const wanted = () => Object.fromEntries(fields.map(f => [f, form.elements[f].value.trim()]).filter(([, v]) => v));
const fits = (e, want) => ["paper", "dataset", "scale", "verdict"].every(f =>
  !(f in want) || !(f in e.dataset) || e.dataset[f].split("|").includes(want[f]));
const some = e => e.querySelector("tr.row:not([hidden]), div.table:not([hidden]), figure:not([hidden]), tr.copy:not([hidden]), tr.source:not([hidden])");

function filter() {
  const want = wanted(), text = (want.text ?? "").toLowerCase();
  for (const e of all("div.table [data-dataset]")) e.hidden = !fits(e, want);
  for (const u of units) u.hidden = !fits(u, want) || !words.get(u).includes(text)
    || (u.matches("div.table") && !u.querySelector("th[data-dataset]:not([hidden])"));
  for (const e of all("tbody.one, .group")) e.hidden = !some(e);
  for (const e of all("p.none")) e.hidden = !!some(e.parentElement);
  for (const e of all(".rest")) e.hidden = !fits(e, want) || "dataset" in want || "scale" in want || "verdict" in want || text !== "";
  const rows = units.filter(u => u.matches("tr.row"));
  form.elements.count.value = `${rows.filter(r => !r.hidden).length} of ${rows.length} verdicts shown`;
  return want;
}

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (location.hash.includes("=")) for (const f of fields) form.elements[f].value = given.get(f) ?? "";
  filter();
}

form.addEventListener("input", () => {
  const state = new URLSearchParams(filter()).toString();
  history.replaceState(null, "", state ? "#" + state : location.pathname + location.search);
});
form.querySelector("[type=reset]").addEventListener("click", event => {
  event.preventDefault();
  form.reset();
  form.dispatchEvent(new Event("input"));
});
form.addEventListener("submit", event => event.preventDefault());
addEventListener("hashchange", read);
if (typeof pages !== "undefined") for (const a of all("a[data-page]"))
  if (pages.includes(a.dataset.page)) a.href = a.getAttribute("href").replace(/ipynb$/, "html");
read();
