// SPDX-License-Identifier: MIT

export interface TableOptions {
  /** A line under the first row. */
  header?: boolean;
  /** Columns aligned to the right. */
  right?: readonly number[];
}

/** Rows as columns of even width, indented by two spaces. */
export function formatTable(rows: readonly (readonly string[])[], { header = false, right = [] }: TableOptions = {}): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  const padded = (cell: string, column: number): string =>
    right.includes(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!);
  const line = (row: readonly string[]): string => `  ${row.map(padded).join('  ')}`.trimEnd();
  const [first, ...rest] = rows.map(line);
  const rule = header ? [`  ${widths.map((width) => '-'.repeat(width)).join('  ')}`] : [];
  return [first ?? '', ...rule, ...rest].join('\n');
}
