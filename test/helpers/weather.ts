// SPDX-License-Identifier: MIT
// The tool that the demo model was made to call.

export const OSLO = "What's the weather in Oslo?";

export const WEATHER = {
  name: 'get_weather',
  description: 'Get the current weather in a city',
  parameters: {
    type: 'object' as const,
    properties: { city: { type: 'string', description: 'The city' } },
    required: ['city'],
  },
};

/** For the client's loop of tool calls: it rains everywhere, and `asked` says where that was asked for. */
export function runnableWeather(asked: string[]) {
  return {
    type: 'function' as const,
    function: {
      ...WEATHER,
      parse: (text: string) => JSON.parse(text) as { city: string },
      function: ({ city }: { city: string }) => {
        asked.push(city);
        return '7 degrees, rainy';
      },
    },
  };
}
