// Modules of the page without the page.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("../../dashboard/web/", import.meta.url));
const { build } = createRequire(`${web}package.json`)("esbuild");

/** Loads a TypeScript module of the page. */
export async function loadSource(module) {
  const { outputFiles } = await build({ entryPoints: [`${web}src/${module}`], bundle: true, format: "esm", write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}
