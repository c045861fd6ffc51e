// Signatures with one key (SIGN_KEY), each of a message of its own. A sample is verified with the public key.
import { check } from 'k6';
import { options as load, keys, publicKeys, distinguishes, fresh, signature, verifies, sampled, right } from './keyway.js';

export { handleSummary } from './keyway.js';
export const options = load(200);

export async function setup() {
  const sets = publicKeys(keys.sign);
  await distinguishes(keys.sign, sets[keys.sign]);
  return sets;
}

export default async function (sets) {
  const name = keys.sign;
  const message = fresh(32);
  const signed = signature(name, sets[name], message);
  if (!check(signed, { signed: (s) => s !== null && s.key === name && s.signature.length > 0 })) return;
  if (sampled()) right(await verifies(name, sets[name], message, signed), `signature of ${name}`);
}
