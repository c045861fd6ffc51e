// A fresh 256-bit key is wrapped and unwrapped again (WRAP_KEY): two requests an iteration, and every one is checked.
import { check } from 'k6';
import { options as load, keys, post, fresh, base64, right } from './keyway.js';

export { handleSummary } from './keyway.js';
export const options = load(100);

export default function () {
  const secret = base64(fresh(32));
  const aad = base64(fresh(8));
  const wrapped = post(`keys/${keys.wrap}/wrap`, { plaintext_key: secret, aad }, 'wrap');
  if (!check(wrapped, { wrapped: (w) => w !== null && w.wrapped.startsWith('kw1.') })) return;
  const clear = post(`keys/${keys.wrap}/unwrap`, { wrapped: wrapped.wrapped, aad }, 'unwrap');
  if (!check(clear, { unwrapped: (c) => c !== null })) return;
  right(clear.plaintext_key === secret && !wrapped.wrapped.includes(secret), 'unwrap');
}
