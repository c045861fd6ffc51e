// What the scripts beside this file share: where the gateway is, how hard to press it, how a request is made and how its
// answer is checked. README.md lists the variables.
import http from 'k6/http';
import exec from 'k6/execution';
import encoding from 'k6/encoding';
import { Counter } from 'k6/metrics';

// dev.json is what keyway dev writes into its directory; variables come before it.
const dev = __ENV.DEV_JSON ? JSON.parse(open(__ENV.DEV_JSON)) : {};
const url = (__ENV.KEYWAY_URL || dev.url || 'http://127.0.0.1:8400').replace(/\/$/, '');
const token = __ENV.KEYWAY_TOKEN || dev.client_token || '';

// keys names the keys to use. The client behind the token needs grants for them.
export const keys = {
  sign: __ENV.SIGN_KEY || 'demo-sign',
  rsa: __ENV.RSA_KEY || 'demo-rsa',
  wrap: __ENV.WRAP_KEY || 'demo-wrap',
  mac: __ENV.MAC_KEY || 'demo-mac',
};

// number reads a variable.
export function number(name, otherwise) {
  const v = __ENV[name];
  if (v === undefined || v === '') return otherwise;
  const n = Number(v);
  if (!(n > 0)) throw new Error(`${name}: a positive number was expected, not ${v}`);
  return n;
}

// Answers that were checked and found right, and those that were wrong. A threshold wants some of the first, none of the second.
const verified = new Counter('answers_verified');
const wrong = new Counter('answers_wrong');

// Of so many answers whose check costs CPU time here (a signature) one is checked.
const sampleEvery = number('SAMPLE_EVERY', 10);

// options returns the options of a script that starts rate iterations a second, however long each takes: load that slows down
// with the gateway would hide what it measures.
export function options(rate) {
  const perSecond = number('RATE', rate);
  // Users made beforehand bear a second without any answer; making more takes k6 a while, in which it drops iterations.
  const users = number('VUS', Math.max(50, Math.ceil(perSecond)));
  return {
    scenarios: {
      load: {
        executor: 'constant-arrival-rate',
        rate: Math.max(1, Math.round(perSecond * 10)),
        timeUnit: '10s', // so that a rate below one a second can be had
        duration: __ENV.DURATION || '30s',
        preAllocatedVUs: users,
        maxVUs: Math.max(users, number('MAX_VUS', 4 * users)),
      },
    },
    thresholds: {
      http_req_failed: ['rate==0'],
      checks: ['rate==1'],
      answers_wrong: ['count==0'],
      answers_verified: ['count>0'],
      dropped_iterations: ['count==0'],
      http_req_duration: [`p(99)<${number('P99_MS', 250)}`],
    },
    summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
    insecureSkipTLSVerify: __ENV.INSECURE_TLS === '1',
    discardResponseBodies: false,
  };
}

const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` };

// post sends one call and returns its decoded answer, or null when the gateway refused it. name groups the requests in the
// summary; without it each key would be a group of its own.
export function post(path, body, name) {
  return answer(http.post(`${url}/api/v1/${path}`, JSON.stringify(body), { headers, tags: { name } }), name);
}

function get(path, name) {
  return answer(http.get(`${url}/api/v1/${path}`, { headers, tags: { name } }), name);
}

function answer(response, name) {
  if (response.status !== 200) {
    if (wrongOnes++ === 0) console.error(`${name}: ${response.status} ${response.error || ''} ${(response.body || '').slice(0, 300)}`);
    return null;
  }
  return JSON.parse(response.body);
}
let wrongOnes = 0; // of this virtual user, each of which tells its first: a gateway that is down does not fill the terminal

// right counts one answer that was checked.
export function right(is, what) {
  (is ? verified : wrong).add(1);
  if (!is && wrongOnes++ === 0) console.error(`${what}: the answer is wrong`);
  return is;
}

// sampled reports whether this iteration's answers are among those to be checked. The first one is.
export function sampled() {
  return exec.scenario.iterationInTest % sampleEvery === 0;
}

// fresh returns random bytes.
export function fresh(length) {
  return crypto.getRandomValues(new Uint8Array(length));
}

export const base64 = (bytes) => encoding.b64encode(bytes.buffer);
const bytesOf = (text, alphabet) => new Uint8Array(encoding.b64decode(text, alphabet || 'std'));

// publicKeys fetches the keys' JWKS. Call it in setup; what it returns goes to every virtual user.
export function publicKeys(...names) {
  const sets = {};
  for (const name of names) {
    const set = get(`keys/${name}/jwks.json`, 'jwks');
    if (set === null) throw new Error(`key ${name} has no public half for this client: see the line above`);
    sets[name] = set.keys;
  }
  return sets;
}

// How a key's signatures are asked for and verified. WebCrypto wants ECDSA signatures as r ‖ s.
function scheme(jwk) {
  switch (jwk.kty) {
    case 'EC': {
      const hash = { 'P-256': '256', 'P-384': '384', 'P-521': '512' }[jwk.crv];
      return {
        ask: { encoding: 'p1363', hash: `sha2-${hash}` },
        imported: { name: 'ECDSA', namedCurve: jwk.crv },
        verify: { name: 'ECDSA', hash: `SHA-${hash}` },
      };
    }
    case 'RSA':
      return {
        ask: { padding: 'pss', hash: 'sha2-256' },
        imported: { name: 'RSA-PSS', hash: 'SHA-256' },
        verify: { name: 'RSA-PSS', saltLength: 32 },
      };
    default:
      return { ask: {} }; // WebCrypto here knows no Ed25519: the gateway verifies
  }
}

// signing returns the fields of a request to sign message.
export function signing(set, message) {
  return Object.assign({ message: base64(message) }, scheme(set[0]).ask);
}

// signature asks for a signature of message. The answer is null when it was refused.
export function signature(name, set, message) {
  return post(`keys/${name}/sign`, signing(set, message), `sign ${name}`);
}

// importable returns a public key as WebCrypto takes it here: format and data. k6 (1.8.1) imports an RSA key from a JWK and then
// refuses to verify with it, so that goes in as SubjectPublicKeyInfo.
function importable(jwk) {
  if (jwk.kty === 'RSA') {
    const rsaEncryption = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    const number = (text) => {
      const b = Array.from(bytesOf(text, 'rawurl'));
      return der(0x02, b[0] & 0x80 ? [0, ...b] : b);
    };
    const key = der(0x30, [...number(jwk.n), ...number(jwk.e)]);
    return ['spki', new Uint8Array(der(0x30, [...rsaEncryption, ...der(0x03, [0, ...key])]))];
  }
  return ['jwk', { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y }];
}

// der returns a DER value with its tag and length.
function der(tag, content) {
  const n = content.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return [tag, ...length, ...content];
}

const imported = {}; // of this virtual user: a key cannot be handed from one to another

// verifies reports whether a signature is right: by WebCrypto with the public key, so the gateway is not asked to judge itself.
export async function verifies(name, set, message, signed) {
  const { imported: algorithm, verify } = scheme(set[0]);
  if (algorithm === undefined) {
    const a = post(`keys/${name}/verify`, Object.assign(signing(set, message), { signature: signed.signature }), `verify ${name}`);
    return a !== null && a.valid === true;
  }
  const id = `${name}:${signed.version}:`; // a key's kid begins so
  if (imported[id] === undefined) {
    const is = (k) => k.kid.startsWith(id);
    const jwk = set.find(is) || publicKeys(name)[name].find(is); // it may have been rotated meanwhile
    if (jwk === undefined) return false;
    imported[id] = await crypto.subtle.importKey(...importable(jwk), algorithm, true, ['verify']);
  }
  return crypto.subtle.verify(verify, imported[id], bytesOf(signed.signature), message);
}

// distinguishes signs once and makes sure that verifies says yes to the signature and no to another one. A check that
// cannot fail would verify nothing. Call it in setup.
export async function distinguishes(name, set) {
  const message = fresh(32);
  const signed = signature(name, set, message);
  if (signed === null) throw new Error(`key ${name} does not sign for this client: see the line above`);
  if (!(await verifies(name, set, message, signed))) throw new Error(`the first signature of ${name} does not verify`);
  message[31] ^= 1;
  if (await verifies(name, set, message, signed)) throw new Error(`a signature of ${name} verifies for another message`);
}

// handleSummary prints a few lines and writes everything, for programs, to the file named by SUMMARY.
export function handleSummary(data) {
  const m = data.metrics;
  const v = (name, stat) => (m[name] && m[name].values[stat] !== undefined ? m[name].values[stat] : 0);
  const ms = (stat) => `${v('http_req_duration', stat).toFixed(2)} ms`;
  const lines = [
    `iterations ${v('iterations', 'count')} (${v('iterations', 'rate').toFixed(1)}/s), requests ${v('http_reqs', 'count')} (${v('http_reqs', 'rate').toFixed(1)}/s)`,
    `latency p50 ${ms('med')}, p95 ${ms('p(95)')}, p99 ${ms('p(99)')}, longest ${ms('max')}`,
    `failed ${v('http_req_failed', 'passes')}, wrong ${v('answers_wrong', 'count')}, dropped iterations ${v('dropped_iterations', 'count')}, answers verified ${v('answers_verified', 'count')}`,
  ];
  for (const [name, metric] of Object.entries(m)) {
    for (const [threshold, result] of Object.entries(metric.thresholds || {})) {
      if (!result.ok) lines.push(`THRESHOLD CROSSED: ${name} ${threshold}`);
    }
  }
  const out = { stdout: lines.join('\n') + '\n' };
  if (__ENV.SUMMARY) out[__ENV.SUMMARY] = JSON.stringify(data);
  return out;
}
