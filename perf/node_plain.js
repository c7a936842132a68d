// The plain scenario on node's own http server: a well-known yardstick from outside Python.
// Usage: node node_plain.js PORT (127.0.0.1 only).
"use strict";
const http = require("node:http");

const body = Buffer.from("Hello, world!");
const headers = { "content-type": "text/plain", "content-length": String(body.length) };

http
  .createServer((request, response) => {
    response.writeHead(200, headers);
    response.end(body);
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
