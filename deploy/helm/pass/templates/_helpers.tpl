{{- define "pass.labels" -}}
app.kubernetes.io/name: pass
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
