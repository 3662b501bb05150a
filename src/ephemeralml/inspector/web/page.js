// The page: files in, the verdict shown. Everything that comes from a file is set as text, never as markup.

const byId = (id) => document.getElementById(id);

const inputs = { bundle: null, policy: null };
// From the worst to the best: a file is as good as the worst of its bundles.
const VERDICTS = ["refused", "no-policy", "not-confidential", "verified"];
const PAINT_MS = 100;
let latestRun = 0;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

async function verifyInputs() {
  latestRun += 1;
  const run = latestRun;
  const result = byId("result");
  result.setAttribute("aria-busy", "true");
  showProgress(null);
  const outcome = inputs.bundle === null ? null : await judge(inputs, () => run === latestRun);
  // A newer choice has its own run.
  if (run !== latestRun) return;
  showProgress(null);
  show(result, outcome);
  result.setAttribute("aria-busy", "false");
}

/**
 * {verdict, sentence, code, found, rows}: of the file as a whole; `found` is what `verifyBundle` found of the first
 * bundle that is refused, or else of the last, or null where it never ran; `rows` is one for each bundle of several.
 */
async function judge({ bundle, policy }, isWanted) {
  try {
    if (!globalThis.crypto?.subtle) throw new Unsupported("this browser gives the page no WebCrypto");
    const trusted = policy === null ? NO_POLICY : parsePolicy(await policy.read());
    return await judgeFile(bundle, trusted, isWanted);
  } catch (error) {
    if (error instanceof Refusal) {
      return { verdict: "refused", sentence: `${error.message}. Nothing was verified.`, code: error.code, found: null };
    }
    const reason = error instanceof Unsupported ? error.message : "the page failed, or the file cannot be read";
    const sentence = `Nothing was verified: ${reason}. Try a current browser, or \`ephemeralml verify\`.`;
    return { verdict: "no-verdict", sentence, code: null, found: null };
  }
}

async function judgeFile(file, trusted, isWanted) {
  const rows = [];
  let shown = null;
  let paused = performance.now();
  for await (const { start, end, data } of splitBundles(file)) {
    const found = await verifyBundle(data, trusted);
    const open = () => readFile(file.slice(start, end), MAX_BUNDLE_BYTES).then((again) => verifyBundle(again, trusted));
    rows.push({ ...verdictOf(found), code: found.code, claims: found.claims, open });
    if (shown === null || shown.ok) shown = found;
    // Where one ends that is no bundle, nobody can say.
    if (!found.ok && found.steps.length === 1) break;
    if (performance.now() - paused < PAINT_MS) continue;
    showProgress({ count: rows.length, share: end / file.size });
    await new Promise((resolve) => setTimeout(resolve));
    if (!isWanted()) break;
    paused = performance.now();
  }
  if (rows.length === 1) return { ...rows[0], found: shown };
  const refused = rows.filter(({ verdict }) => verdict === "refused");
  const worst = VERDICTS.map((verdict) => rows.find((row) => row.verdict === verdict)).find((row) => row);
  const sentence = refused.length
    ? `${refused.length} of ${rows.length} bundles refused. Bundle ${rows.indexOf(worst) + 1}: ${worst.sentence}`
    : `${rows.length} bundles, and each holds. ${worst.sentence}`;
  return { ...worst, sentence, found: shown, rows };
}

function verdictOf(found) {
  if (!found.ok) {
    return { verdict: "refused", sentence: `${found.steps.at(-1).detail}.` };
  }
  if (found.confidential) {
    return { verdict: "verified", sentence: "A pinned enclave on AWS hardware, not in debug mode, gave this receipt." };
  }
  const why = found.reservations.join("; ");
  return {
    verdict: found.policy.given ? "not-confidential" : "no-policy",
    sentence: `Every signature and hash holds. Not confidential: ${why}.`,
  };
}

function show(result, outcome) {
  const { verdict, sentence, code, found, rows } = outcome ?? { verdict: "", code: null, found: null };
  result.dataset.verdict = verdict;
  result.dataset.code = code ?? "";
  byId("verdict").replaceChildren(...(outcome === null ? [] : [banner(verdict, sentence, code)]));
  byId("details").replaceChildren(...(rows ? [make("h2", "", "Bundles"), bundleList(rows, found)] : found ? details(found) : []));
}

function showProgress(progress) {
  byId("progress").hidden = progress === null;
  byId("progress-bar").value = progress?.share ?? 0;
  byId("progress-text").textContent = progress === null ? "" : `${progress.count} bundles verified`;
}

/** One line for each bundle; opened, it is verified once more and shown whole. The first that is refused is open. */
function bundleList(rows, found) {
  const list = make("ol", "bundles");
  const first = rows.findIndex(({ verdict }) => verdict === "refused");
  for (const [index, row] of rows.entries()) {
    const mark = make("span", "mark", row.verdict === "refused" ? "✗ refused" : WORDS.titles[row.verdict].toLowerCase());
    const item = make("details", row.verdict, make("summary", "", `Bundle ${index + 1}: `, mark, summaryOf(row)));
    item.addEventListener("toggle", () => fill(item, row), { once: true });
    if (index === first) {
      item.append(...details(found));
      item.open = true;
    }
    list.append(make("li", "", item));
  }
  return list;
}

function summaryOf({ code, claims }) {
  if (code !== null) return make("span", "quiet", ", ", make("code", "", code));
  return make("span", "quiet", `, receipt ${claims.sequence_number}, issued ${showTime(Number(claims.iat) * 1000)} UTC`);
}

async function fill(item, row) {
  if (item.childElementCount > 1) return;
  try {
    item.append(...details(await row.open()));
  } catch {
    item.append(make("p", "", "The file cannot be read any more: choose it again."));
  }
}

function banner(verdict, sentence, code) {
  const box = make("div", `verdict ${verdict}`, make("h2", "", WORDS.titles[verdict]), make("p", "", sentence));
  if (code !== null) box.append(make("p", "", "Code: ", make("code", "", code)));
  return box;
}

/** The claims are shown only where every step held. */
function details(found) {
  const parts = [make("h2", "", "Step by step"), stepList(found.steps)];
  if (!found.ok) return parts;
  const limits = limitsOf(found).map((text) => make("li", "", text));
  parts.push(make("h2", "", "What this does not prove"), make("ul", "", ...limits));
  parts.push(make("h2", "", "What the receipt says"), factList(found));
  return parts;
}

function stepList(steps) {
  const list = make("ol", "steps");
  for (const [index, name] of Object.keys(WORDS.steps).entries()) {
    const step = steps[index];
    const [state, mark] = stateOf(step);
    const item = make("li", state, make("span", "mark", mark), make("h3", "", name), make("p", "quiet", WORDS.steps[name]));
    if (step) item.append(make("p", "value", step.detail));
    list.append(item);
  }
  return list;
}

function stateOf(step) {
  if (step === undefined) return ["skipped", "not reached"];
  if (!step.ok) return ["failed", "✗ refused"];
  return step.detail.startsWith("NOT CHECKED") ? ["unchecked", "! unchecked"] : ["passed", "✓ proved"];
}

function limitsOf({ policy }) {
  const { measurements, owner, ...always } = WORDS.limits;
  const some = [];
  if (policy.insecure) some.push(measurements);
  if (policy.models.length === 0) some.push(owner);
  return [...some, ...Object.values(always)];
}

function factList({ claims, document: { pcrs } }) {
  const list = make("dl");
  const add = (name, value) => list.append(make("dt", "", name), make("dd", "value", value));
  for (const [name, value] of Object.entries(claims)) {
    if (name === "iat") add(name, `${showTime(Number(value) * 1000)} UTC`);
    else if (name !== "enclave_measurements" && value !== null) add(name, isBytes(value) ? hex(value) : `${value}`);
  }
  for (const [index, register] of [...pcrs].sort(([a], [b]) => a - b)) {
    if (!isZero(register) || index < 3) add(`PCR${index}`, hex(register));
  }
  return list;
}

function useBundle(file) {
  inputs.bundle = file;
  byId("bundle-state").textContent = file === null ? "" : `Bundle: ${file.name}`;
}

function usePolicy(policy, state) {
  inputs.policy = policy;
  byId("policy-state").textContent = state;
  byId("forget-policy").hidden = policy === null;
}

function usePolicyFile(file) {
  usePolicy({ read: () => readFile(file, MAX_POLICY_BYTES) }, `Policy: ${file.name}`);
}

function takeFiles(files) {
  for (const file of files) {
    if (file.name.toLowerCase().endsWith(".json")) usePolicyFile(file);
    else useBundle(file);
  }
  verifyInputs();
}

byId("bundle").addEventListener("change", ({ target }) => {
  useBundle(target.files[0] ?? null);
  verifyInputs();
});
byId("policy").addEventListener("change", ({ target }) => {
  if (target.files.length) usePolicyFile(target.files[0]);
  verifyInputs();
});
byId("use-pasted").addEventListener("click", () => {
  const bytes = toUtf8(byId("pasted").value);
  usePolicy({ read: async () => bytes }, "Policy: the pasted one");
  verifyInputs();
});
byId("forget-policy").addEventListener("click", () => {
  byId("policy").value = "";
  usePolicy(null, "No policy: what the enclave should be is then not checked.");
  byId("policy").focus();
  verifyInputs();
});
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  takeFiles(event.dataTransfer.files);
});
