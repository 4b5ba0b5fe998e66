// SPDX-License-Identifier: MIT
// Container health check: exit 0 when GET /health answers 200. Follows the server's own port and TLS settings.
const port = process.env.TWELVEX_PORT ?? '8000';
const scheme = process.env.TWELVEX_TLS_CERT ? 'https' : 'http';
if (scheme === 'https') process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'; // the certificate names the host, not 127.0.0.1
try {
  const response = await fetch(`${scheme}://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(2500) });
  process.exitCode = response.status === 200 ? 0 : 1;
} catch {
  process.exitCode = 1;
}
