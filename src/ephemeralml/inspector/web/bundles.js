// A file of one bundle or of several, one after another: read block by block, so that many of them take little memory.

const MAX_BUNDLES = 10_000;
const MAX_FILE_BYTES = 1 << 28;
const BLOCK_BYTES = 8 * MAX_BUNDLE_BYTES;

/** At most one byte more than `limit`, whatever the file's size. */
async function readFile(file, limit) {
  return new Uint8Array(await file.slice(0, limit + 1).arrayBuffer());
}

/**
 * {start, end, data} of each bundle of `file`, one at least. What is no bundle is given as it is, for `verifyBundle` to
 * refuse. As receipts/bundle.py splits, but for the caps. Throws `Unsupported`.
 */
async function* splitBundles(file) {
  if (file.size > MAX_FILE_BYTES) throw new Unsupported(`the file is above ${MAX_FILE_BYTES >> 20} MiB`);
  let block = await readFile(file, BLOCK_BYTES);
  let before = 0;
  let start = 0;
  for (let count = 1; count === 1 || start < file.size; count += 1) {
    if (count > MAX_BUNDLES) throw new Unsupported(`the file holds more than ${MAX_BUNDLES} bundles`);
    if (start - before + MAX_BUNDLE_BYTES >= block.length && before + block.length < file.size) {
      before = start;
      block = await readFile(file.slice(start), BLOCK_BYTES);
    }
    const rest = block.subarray(start - before, start - before + MAX_BUNDLE_BYTES + 1);
    const end = start + firstItem(rest);
    yield { start, end, data: rest.subarray(0, end - start) };
    start = end;
  }
}
