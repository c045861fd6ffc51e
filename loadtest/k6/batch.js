// Batches of SIZE operations, a third each of signatures, wrappings and MACs. Each result must stand in its place with
// status 200; of a sampled batch one signature is verified and one wrapping opened.
import { check } from 'k6';
import { options as load, keys, number, post, publicKeys, distinguishes, fresh, base64, signing, verifies, sampled, right } from './keyway.js';

export { handleSummary } from './keyway.js';
export const options = load(10);

const size = Math.min(1000, number('SIZE', 30));

export async function setup() {
  const sets = publicKeys(keys.sign);
  await distinguishes(keys.sign, sets[keys.sign]);
  return sets;
}

function operation(i, bytes, set) {
  const id = String(i);
  switch (i % 3) {
    case 0:
      return Object.assign({ id, op: 'sign', key: keys.sign }, signing(set, bytes));
    case 1:
      return { id, op: 'wrap', key: keys.wrap, plaintext_key: base64(bytes) };
    default:
      return { id, op: 'mac', key: keys.mac, message: base64(bytes) };
  }
}

export default async function (sets) {
  const inputs = [];
  for (let i = 0; i < size; i++) inputs.push(fresh(32));
  const done = post('batch', { operations: inputs.map((bytes, i) => operation(i, bytes, sets[keys.sign])) }, 'batch');
  const good = check(done, {
    'every operation done, in order': (d) => d !== null && d.results.length === size && d.results.every((r, i) => r.id === String(i) && r.status === 200),
  });
  if (!good || !sampled()) return;
  right(await verifies(keys.sign, sets[keys.sign], inputs[0], done.results[0]), 'a signature of a batch');
  if (size < 2) return;
  const clear = post(`keys/${keys.wrap}/unwrap`, { wrapped: done.results[1].wrapped }, 'unwrap');
  right(clear !== null && clear.plaintext_key === base64(inputs[1]), 'a wrapping of a batch');
}
