// What a gateway of many applications sees: of ten iterations four sign with ECDSA, one with RSA, two wrap and unwrap, two
// make a MAC and have it verified, one makes a data key and opens it.
import exec from 'k6/execution';
import { check } from 'k6';
import { options as load, keys, post, publicKeys, distinguishes, fresh, base64, signature, verifies, sampled, right } from './keyway.js';

export { handleSummary } from './keyway.js';
export const options = load(100);

export async function setup() {
  const sets = publicKeys(keys.sign, keys.rsa);
  await distinguishes(keys.sign, sets[keys.sign]);
  await distinguishes(keys.rsa, sets[keys.rsa]);
  return sets;
}

async function sign(name, sets) {
  const message = fresh(64);
  const signed = signature(name, sets[name], message);
  if (check(signed, { signed: (s) => s !== null }) && sampled()) {
    right(await verifies(name, sets[name], message, signed), `signature of ${name}`);
  }
}

function wrap() {
  const secret = base64(fresh(32));
  const wrapped = post(`keys/${keys.wrap}/wrap`, { plaintext_key: secret }, 'wrap');
  if (check(wrapped, { wrapped: (w) => w !== null })) unwrap(wrapped.wrapped, secret);
}

function unwrap(wrapped, secret) {
  const clear = post(`keys/${keys.wrap}/unwrap`, { wrapped }, 'unwrap');
  if (check(clear, { unwrapped: (c) => c !== null })) right(clear.plaintext_key === secret, 'unwrap');
}

function mac() {
  const message = fresh(100);
  const made = post(`keys/${keys.mac}/mac`, { message: base64(message) }, 'mac');
  if (!check(made, { 'MAC made': (m) => m !== null })) return;
  const good = post(`keys/${keys.mac}/mac/verify`, { message: base64(message), mac: made.mac }, 'mac/verify');
  message[99] ^= 1;
  const bad = post(`keys/${keys.mac}/mac/verify`, { message: base64(message), mac: made.mac }, 'mac/verify');
  if (check(null, { 'MAC judged': () => good !== null && bad !== null })) right(good.valid === true && bad.valid === false, 'mac/verify');
}

function datakey() {
  const made = post(`keys/${keys.wrap}/datakey`, { bits: 256, plaintext: true }, 'datakey');
  if (check(made, { 'data key made': (d) => d !== null })) unwrap(made.wrapped, made.plaintext_key);
}

const turns = [
  (s) => sign(keys.sign, s), wrap, (s) => sign(keys.sign, s), mac, (s) => sign(keys.rsa, s),
  (s) => sign(keys.sign, s), wrap, (s) => sign(keys.sign, s), mac, datakey,
];

export default async function (sets) {
  const i = exec.scenario.iterationInTest;
  await turns[(i + Math.floor(i / turns.length)) % turns.length](sets); // shifted each time, so that every turn is sampled
}
