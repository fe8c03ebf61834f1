// graphile-worker, through the functions that its own worker calls. It deletes what is done. Commands: see side.py.
const path = require("node:path");
const readline = require("node:readline");
const home = path.join(process.argv[3], "node_modules", "graphile-worker");
const { makeWorkerUtils } = require(home);
const { processSharedOptions, makeEnhancedWithPgClient } = require(path.join(home, "dist/lib.js"));
const { makeWithPgClientFromPool } = require(path.join(home, "dist/helpers.js"));
const { batchGetJobs } = require(path.join(home, "dist/sql/getJobs.js"));
const { batchCompleteJobs } = require(path.join(home, "dist/sql/completeJobs.js"));
const { Pool } = require(require.resolve("pg", { paths: [home] }));

const [batch, storedAtOnce] = [100, 1000];
const payload = { n: 1, text: "x".repeat(870) };
const pool = new Pool({ connectionString: process.argv[2], max: 2 });
const withPgClient = makeEnhancedWithPgClient(makeWithPgClientFromPool(pool));
let utils, options;

const commands = {
  async install() {
    utils = await makeWorkerUtils({ pgPool: pool });
    await utils.migrate();
    options = processSharedOptions({ pgPool: pool });
  },
  async store(count) {
    for (let n = 0; n < count; n += storedAtOnce) {
      await utils.addJobs(Array.from({ length: Math.min(storedAtOnce, count - n) }, () => ({ identifier: "shop", payload })));
    }
  },
  async turn(count) {
    for (let done = 0; done < count; ) {
      const jobs = await batchGetJobs(options, withPgClient, { shop: () => {} }, "bench", null, batch);
      await batchCompleteJobs(options, withPgClient, "bench", jobs);
      done += jobs.length;
    }
  },
};

async function serve() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, count] = line.split(" ");
    const began = process.hrtime.bigint();
    await commands[name](Number(count || 0));
    console.log(Number(process.hrtime.bigint() - began) / 1e9);
  }
  process.exit(0);
}
serve();
