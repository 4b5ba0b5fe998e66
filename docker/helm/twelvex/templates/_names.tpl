{{- define "twelvex.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "twelvex.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "twelvex.claim" -}}
{{- if .Values.models.existingClaim }}{{ .Values.models.existingClaim }}{{ else }}{{ .Release.Name }}-models{{ end }}
{{- end }}
